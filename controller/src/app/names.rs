//! Names of databases and accounts, checked against the manifest before any agent is asked.

use trove_strategy::NameRules;

use crate::error::{Error, Result};

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
    } else if is_reserved(rules, name) {
        "is reserved".to_owned()
    } else {
        return Ok(());
    };
    let mut shown: String = name.chars().take(64).collect();
    if shown.len() < name.len() {
        shown.push('…');
    }
    Err(Error::BadRequest(format!("{field} {shown:?} {reason}.")))
}

/// Whether the name belongs to the engine or to the agent.
pub fn is_reserved(rules: &NameRules, name: &str) -> bool {
    rules.reserved.iter().any(|reserved| reserved == name)
        || rules.reserved_prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
}
