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
    let reason = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > rules.max_bytes {
        format!("is longer than {} bytes", rules.max_bytes)
    } else if let Some(bad) = name.chars().find(|c| *c == '\0' || rules.forbidden_characters.contains(*c)) {
        format!("contains the character {bad:?}")
    } else if name == "." || name == ".." {
        // Clients take such a part of a path for a step, however it is quoted: to delete the user `..` would delete the
        // instance.
        "cannot stand in the path of a URL".to_owned()
    } else if is_reserved(rules, name) {
        "is reserved".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::BadRequest(format!("{field} {} {reason}.", shown(name))))
}

/// Whether the name belongs to the engine or to the agent.
pub fn is_reserved(rules: &NameRules, name: &str) -> bool {
    rules.reserved.iter().any(|reserved| reserved == name)
        || rules.reserved_prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
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
pub fn check_password(rules: PasswordRules, whose: &str, password: &SecretString, min: usize) -> Result<()> {
    let password = password.expose_secret();
    let length = password.chars().count();
    let reason = if length < min {
        format!("is shorter than {min} characters")
    } else if length > MAX_PASSWORD {
        format!("is longer than {MAX_PASSWORD} characters")
    } else if password.contains('\0') {
        "contains the character '\\0'".to_owned()
    } else if !rules.allow(password) {
        "contains what clients prepare differently (SASLprep, RFC 4013): characters newer than Unicode 3.2, control characters, or \
         writing from right to left among other characters"
            .to_owned()
    } else {
        return Ok(());
    };
    Err(Error::BadRequest(format!("The password of {whose} {reason}.")))
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
    use crate::store::harness::manifest;

    const SASLPREP: PasswordRules = PasswordRules { saslprep: true };

    #[test]
    fn names_that_the_engine_refuses_are_named_in_the_sentence() {
        let rules = NameRules { max_bytes: 8, forbidden_characters: "/\"".to_owned(), ..manifest().identity.databases };
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
        let error = check_password(SASLPREP, "user \"a\"", &SecretString::from("ses\0ame"), 1).unwrap_err().to_string();
        assert!(!error.contains("ame"), "{error}");
        assert!(check_password(SASLPREP, "root", &SecretString::from("seven77"), 8).is_err());
        assert!(check_password(SASLPREP, "root", &SecretString::from("x".repeat(256)), 8).is_err());
        assert!(check_password(SASLPREP, "root", &SecretString::from("é".repeat(255)), 8).is_ok());
        let error = check_password(SASLPREP, "root", &SecretString::from("⅐ cup of sugar"), 8).unwrap_err().to_string();
        assert!(error.contains("SASLprep") && !error.contains("sugar"), "{error}");
    }

    proptest! {
        #[test]
        fn a_check_answers_400_or_nothing(name in any::<String>()) {
            let rules = manifest().identity.users.names;
            for result in [
                check(&rules, "User", &name),
                check_text("name", &name),
                check_password(SASLPREP, "root", &SecretString::from(name.clone()), 8),
            ] {
                prop_assert!(matches!(result, Ok(()) | Err(Error::BadRequest(_))));
            }
            if check(&rules, "User", &name).is_ok() {
                prop_assert!(!name.contains('\0') && !name.is_empty() && name.len() <= 63);
            }
        }
    }
}
