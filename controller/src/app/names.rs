//! Names of databases and accounts, checked against the manifest before any agent is asked.

use secrecy::{ExposeSecret, SecretString};
use trove_strategy::{NameRules, PasswordRules};

use crate::error::{Error, Result};

/// Longest password, characters.
const MAX_PASSWORD: usize = 255;

/// Longest text of an order that is stored as it is, characters.
const MAX_TEXT: usize = 255;

/// Refuses a name that the engine would refuse or that is reserved. `field` is named in the sentence.
///
/// # Errors
/// 400.
pub fn check(rules: &NameRules, field: &str, name: &str) -> Result<()> {
    let reason = match rules.refusal(name) {
        Some(reason) => reason,
        // Clients take such a part of a path for a step, however it is quoted: to delete the user `..` would delete the
        // instance.
        None if name == "." || name == ".." => "cannot stand in the path of a URL".to_owned(),
        None => return Ok(()),
    };
    Err(Error::BadRequest(format!("{field} {} {reason}.", shown(name))))
}

/// A caller's text inside a sentence: quoted, escaped, at most 64 characters of it.
pub fn shown(text: &str) -> String {
    let start: String = text.chars().take(64).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("{start:?}{more}")
}

/// Refuses a password of the wrong length, with NUL, which no engine takes, or against the rules of this engine. The
/// sentence does not show it.
///
/// # Errors
/// 400.
pub fn check_password(rules: &PasswordRules, whose: &str, password: &SecretString, min: usize) -> Result<()> {
    let password = password.expose_secret();
    let length = password.chars().count();
    let reason = if length < min {
        Some(format!("is shorter than {min} characters"))
    } else if length > MAX_PASSWORD {
        Some(format!("is longer than {MAX_PASSWORD} characters"))
    } else {
        rules.refusal(password)
    };
    reason.map_or(Ok(()), |reason| Err(Error::BadRequest(format!("The password of {whose} {reason}."))))
}

/// Refuses a text that is stored as it is: empty, too long, or with control characters.
///
/// # Errors
/// 400.
pub fn check_text(field: &str, text: &str) -> Result<()> {
    let reason = if text.is_empty() {
        "is empty".to_owned()
    } else if text.chars().count() > MAX_TEXT {
        format!("is longer than {MAX_TEXT} characters")
    } else if let Some(bad) = text.chars().find(|c| c.is_control()) {
        format!("contains the character {bad:?}")
    } else {
        return Ok(());
    };
    Err(Error::BadRequest(format!("{field} {} {reason}.", shown(text))))
}

/// Refuses a list in which something occurs twice.
///
/// # Errors
/// 400.
pub fn check_unique<'a>(field: &str, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    match names.into_iter().find(|name| !seen.insert(*name)) {
        Some(twice) => Err(Error::BadRequest(format!("{field} {} is given twice.", shown(twice)))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::store::manifest;

    fn saslprep() -> PasswordRules {
        manifest().identity.users.passwords
    }

    #[test]
    fn names_that_the_engine_refuses_are_named_in_the_sentence() {
        let mut rules = manifest().identity.databases;
        rules.max_bytes = 8;
        rules.forbidden_characters = "/\"".to_owned();
        let refused = |name: &str| check(&rules, "Database", name).unwrap_err().to_string();
        assert_eq!(refused(""), "Database \"\" is empty.");
        assert_eq!(refused("ninebytes"), "Database \"ninebytes\" is longer than 8 bytes.");
        assert_eq!(refused("ééééé"), "Database \"ééééé\" is longer than 8 bytes.");
        assert_eq!(refused("a\0b"), "Database \"a\\0b\" contains the character '\\0'.");
        assert_eq!(refused("a/b"), "Database \"a/b\" contains the character '/'.");
        assert_eq!(refused("os_admin"), "Database \"os_admin\" is reserved.");
        assert_eq!(refused("sys_x"), "Database \"sys_x\" is reserved.");
        assert_eq!(refused(".."), "Database \"..\" cannot stand in the path of a URL.");
        assert!(check(&rules, "Database", ".").is_err() && check(&rules, "Database", "...").is_ok());
        assert!(refused(&"x".repeat(65_536)).len() < 200);
        assert!(check(&rules, "Database", "d'; -- é").is_err());
        assert!(check(&rules, "Database", "d'; --").is_ok(), "quoting is the strategy's work");
    }

    #[test]
    fn a_refused_password_is_not_shown() {
        let error =
            check_password(&saslprep(), "user \"a\"", &SecretString::from("ses\0ame"), 1).unwrap_err().to_string();
        assert!(!error.contains("ame"), "{error}");
        assert!(check_password(&saslprep(), "root", &SecretString::from("seven77"), 8).is_err());
        assert!(check_password(&saslprep(), "root", &SecretString::from("x".repeat(256)), 8).is_err());
        assert!(check_password(&saslprep(), "root", &SecretString::from("é".repeat(255)), 8).is_ok());
        let error =
            check_password(&saslprep(), "root", &SecretString::from("⅐ cup of sugar"), 8).unwrap_err().to_string();
        assert!(error.contains("SASLprep") && !error.contains("sugar"), "{error}");
    }

    proptest! {
        #[test]
        fn a_check_answers_400_or_nothing(name in any::<String>()) {
            let rules = manifest().identity.users.names;
            for result in [
                check(&rules, "User", &name),
                check_text("name", &name),
                check_password(&saslprep(), "root", &SecretString::from(name.clone()), 8),
            ] {
                prop_assert!(matches!(result, Ok(()) | Err(Error::BadRequest(_))));
            }
            if check(&rules, "User", &name).is_ok() {
                prop_assert!(!name.contains('\0') && !name.is_empty() && name.len() <= 63);
            }
        }
    }
}
