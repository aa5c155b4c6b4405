//! Which accounts and rights of a backup are taken over: those that a tenant can have here, with their passwords. What else was
//! written to the collections of accounts, whoever did that, gives nobody rights.

use bson::{Bson, Document, doc};
use trove_strategy::EngineError;

use crate::client::Session;
use crate::names::{HOME, ROOT, check_database, split};
use crate::records::RESTORE;
use crate::roles::{self, ACCESS, ROOT_ROLE};

/// What an account shows its password with, and how it is looked at here.
const MECHANISM: &str = "SCRAM-SHA-256";

/// Leaves no other accounts and no other roles.
pub(crate) async fn accounts(session: &mut Session) -> Result<(), EngineError> {
    let databases: Vec<String> =
        roles::databases(session).await?.into_iter().filter(|name| check_database(name).is_ok()).collect();
    for found in session.find(RESTORE, (HOME, "system.users"), doc! {}, doc! {}).await? {
        let Some(id) = found.get("_id").cloned() else { continue };
        let change = match kept(&found, &databases) {
            Some(kept) if kept == found => continue,
            Some(kept) => doc! {"update": "system.users", "updates": [{"q": {"_id": id}, "u": kept}]},
            None => doc! {"delete": "system.users", "deletes": [{"q": {"_id": id}, "limit": 1}]},
        };
        session.run(RESTORE, HOME, change).await?;
    }
    roles::remake(session, &databases).await
}

/// An account without what no tenant could have given it.
fn kept(found: &Document, databases: &[String]) -> Option<Document> {
    let (database, name) = (found.get_str("db").ok()?, found.get_str("user").ok()?);
    let is_root = (database, name) == (HOME, ROOT);
    let whole = format!("{database}.{name}");
    if !is_root && split(&whole).ok() != Some((database, name)) {
        return None;
    }
    let listed = found.get_array("roles").into_iter().flatten().filter_map(Bson::as_document);
    let granted = listed.filter_map(|role| Some((role.get_str("role").ok()?, role.get_str("db").ok()?)));
    let is_allowed = |(role, of): &(&str, &str)| match is_root {
        true => (*role, *of) == (ROOT_ROLE, HOME),
        false => *role == ACCESS && databases.iter().any(|known| known == of),
    };
    let roles: Vec<Document> = granted.filter(is_allowed).map(|(role, of)| doc! {"role": role, "db": of}).collect();
    let secret = found.get_document("credentials").ok()?.get_document(MECHANISM).ok()?;
    let credentials = doc! {MECHANISM: {
        "iterationCount": secret.get_i32("iterationCount").ok()?,
        "salt": secret.get_str("salt").ok()?,
        "storedKey": secret.get_str("storedKey").ok()?,
        "serverKey": secret.get_str("serverKey").ok()?,
    }};
    Some(doc! {
        "_id": whole, "userId": found.get("userId")?, "user": name, "db": database, "credentials": credentials, "roles": roles,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(database: &str, name: &str, roles: &[(&str, &str)]) -> Document {
        let roles: Vec<Document> = roles.iter().map(|(role, of)| doc! {"role": *role, "db": *of}).collect();
        let secret = doc! {"iterationCount": 15000, "salt": "a", "storedKey": "b", "serverKey": "c"};
        doc! {
            "_id": format!("{database}.{name}"), "userId": 1, "user": name, "db": database,
            "credentials": {MECHANISM: secret}, "roles": roles,
        }
    }

    #[test]
    fn an_account_keeps_its_password_and_what_a_tenant_can_be_given() {
        let databases = ["shop".to_owned()];
        let kept = |found: &Document| kept(found, &databases);
        for plain in [account("shop", "app", &[(ACCESS, "shop")]), account(HOME, ROOT, &[(ROOT_ROLE, HOME)])] {
            assert_eq!(kept(&plain).as_ref(), Some(&plain));
        }
        let forged = account("shop", "app", &[("root", HOME), (ACCESS, "shop"), (ACCESS, "other"), (ROOT_ROLE, HOME)]);
        assert_eq!(kept(&forged), Some(account("shop", "app", &[(ACCESS, "shop")])));
        let mut forged = account(HOME, ROOT, &[("root", HOME)]);
        forged.insert("customData", "x");
        assert_eq!(kept(&forged), Some(account(HOME, ROOT, &[])));
        for (database, name) in [(HOME, "os_admin"), (HOME, "other"), ("local", "x"), ("$external", "x"), ("shop", "")]
        {
            assert_eq!(kept(&account(database, name, &[])), None, "{database}.{name}");
        }
        let mut without = account("shop", "app", &[]);
        without.insert("credentials", doc! {"external": true});
        assert_eq!(kept(&without), None);
    }
}
