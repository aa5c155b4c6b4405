//! What databases can be made with.

use trove_strategy::{CharacterSet, EngineError};

use crate::client::Session;

/// Encodings of clients that the server cannot keep data in (manual, table 24.3).
const CLIENTS_ONLY: &str = "'BIG5', 'GB18030', 'GBK', 'JOHAB', 'SJIS', 'SHIFT_JIS_2004', 'UHC'";

/// Every encoding with the collations that fit it, the cluster's own first. An encoding that cannot be converted to UTF-8 is
/// left out: no client that speaks UTF-8, the agent among them, could enter such a database.
pub(crate) async fn character_sets(home: &Session) -> Result<Vec<CharacterSet>, EngineError> {
    // A collation of the C library belongs to one encoding, or to any (-1); 0 is SQL_ASCII, for which only the latter are
    // sound (manual, 24.3.1).
    let sql = format!(
        "select pg_encoding_to_char(e), locale \
         from generate_series(0, 99) e, \
         (select encoding, datcollate from pg_database where datname = 'template0') own, \
         lateral (select collcollate from pg_collation where collprovider = 'c' and collencoding in (-1, e) \
                  union select own.datcollate where own.encoding = e) fits(locale) \
         where pg_encoding_to_char(e) not in ('', {CLIENTS_ONLY}) \
         and (e in (0, pg_char_to_encoding('UTF8')) or exists (select 1 from pg_conversion where condefault \
              and conforencoding = e and contoencoding = pg_char_to_encoding('UTF8'))) \
         order by e <> own.encoding, 1, locale = own.datcollate desc, locale <> 'C', locale"
    );
    let mut sets: Vec<CharacterSet> = Vec::new();
    for row in home.rows("read the character sets", &sql).await? {
        let [name, collation] = <[String; 2]>::try_from(row).unwrap_or_default();
        match sets.last_mut() {
            Some(last) if last.name == name => last.collations.push(collation),
            _ => sets.push(CharacterSet::new(name, collation)),
        }
    }
    Ok(sets)
}
