//! Rows of certificate authorities, with encrypted keys.

use secrecy::SecretString;

use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::sql::query;

/// A stored authority.
pub struct StoredAuthority {
    /// PEM.
    pub certificate_pem: String,
    /// PEM, PKCS#8.
    pub key_pem: SecretString,
}

impl Store {
    /// # Errors
    /// Internal: the store failed, or the key was encrypted with another key.
    pub async fn get_authority(&self, name: &str) -> Result<Option<StoredAuthority>> {
        let row = query("select certificate_pem, sealed_key from authority where name = $1")
            .bind(name)
            .fetch_optional(&self.read)
            .await
            .map_err(|error| Error::internal(format!("read the authority {name}"), error))?;
        let Some(row) = row else { return Ok(None) };
        let column = |column| {
            row.try_get::<String, _>(column)
                .map_err(|error| Error::internal(format!("read the authority {name}"), error))
        };
        let key_pem = self.seal.open(&purpose(name), &column("sealed_key")?)?;
        Ok(Some(StoredAuthority { certificate_pem: column("certificate_pem")?, key_pem }))
    }

    /// Stores an authority, unless there is one of this name.
    pub async fn insert_authority(&self, name: &str, authority: &StoredAuthority) -> Result<()> {
        let sealed = self.seal.seal(&purpose(name), &authority.key_pem)?;
        query(
            "insert into authority (name, certificate_pem, sealed_key, created) values ($1, $2, $3, $4)
             on conflict (name) do nothing",
        )
        .bind(name)
        .bind(&authority.certificate_pem)
        .bind(sealed)
        .bind(self.now_micros())
        .execute(&self.write)
        .await
        .map_err(|error| Error::internal(format!("store the authority {name}"), error))?;
        Ok(())
    }
}

fn purpose(name: &str) -> String {
    format!("authority {name}")
}
