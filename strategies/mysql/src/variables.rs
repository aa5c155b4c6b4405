//! The variables of the running server that a tenant may set, as it tells of them.

use trove_strategy::{EngineError, Site};

use crate::Flavour;
use crate::client::Session;
use crate::owned::is_owned;
use crate::undeclared;

/// A variable of the running server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variable {
    pub(crate) name: String,
    /// MariaDB's own name of its type, in capital letters.
    pub(crate) kind: String,
    pub(crate) min: String,
    pub(crate) max: String,
    /// The values of an enumeration.
    pub(crate) allowed: Vec<String>,
    /// Whether a session has its own, beside the server's.
    pub(crate) is_sessions: bool,
    pub(crate) is_read_only: bool,
    pub(crate) default: String,
    pub(crate) value: String,
    /// Whether it has its default because nobody has set it.
    pub(crate) is_untouched: bool,
}

const MARIADB: &str = "select lower(variable_name), variable_type, coalesce(numeric_min_value, ''), \
                       coalesce(numeric_max_value, ''), coalesce(enum_value_list, ''), read_only = 'YES', \
                       coalesce(default_value, ''), coalesce(global_value, ''), global_value_origin in \
                       ('COMPILE-TIME', 'AUTO') from information_schema.system_variables where variable_scope <> \
                       'SESSION ONLY' and (command_line_argument is not null or variable_name in \
                       ('CHARACTER_SET_SERVER', 'COLLATION_SERVER'))";

/// All of them by name. Of MySQL's it is not known here what [`undeclared`] finds out.
pub(crate) async fn all(
    flavour: Flavour,
    site: &Site,
    session: &mut Session<'_>,
) -> Result<Vec<Variable>, EngineError> {
    let mut all = if flavour.is_mariadb() { mariadb(session).await? } else { undeclared::all(site, session).await? };
    all.retain(|known| !is_owned(&known.name));
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// The same, and which of them the running server does not let be set.
pub(crate) async fn all_with_read_only(
    flavour: Flavour,
    site: &Site,
    session: &mut Session<'_>,
) -> Result<Vec<Variable>, EngineError> {
    let mut all = all(flavour, site, session).await?;
    if !flavour.is_mariadb() {
        undeclared::find_read_only(session, &mut all).await?;
    }
    Ok(all)
}

async fn mariadb(session: &mut Session<'_>) -> Result<Vec<Variable>, EngineError> {
    let read = |row: Vec<String>| {
        let [name, kind, min, max, allowed, read_only, default, value, untouched] =
            <[String; 9]>::try_from(row).ok()?;
        let (is_read_only, is_untouched) = (read_only == "1", untouched == "1");
        let is_enumeration = kind == "ENUM";
        let allowed = allowed.split(',').filter(|one| is_enumeration && !one.is_empty()).map(str::to_owned).collect();
        let is_sessions = false;
        Some(Variable { name, kind, min, max, allowed, is_sessions, is_read_only, default, value, is_untouched })
    };
    Ok(session.rows("list parameters", MARIADB).await?.into_iter().filter_map(read).collect())
}
