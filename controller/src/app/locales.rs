//! Character sets and collations of databases, checked against what the installed engine has.

use trove_strategy::CharacterSet;

use super::names::shown;
use crate::error::{Error, Result};

/// Longest name of a character set or a collation, bytes.
const MAX_BYTES: usize = 64;

/// So many names are listed in a sentence.
const LISTED: usize = 12;

/// Writes the character set and the collation of a new database as the engine does, and chooses the collation where only the
/// character set is given. Where the manifest does not tell them, only their form is checked.
///
/// # Errors
/// 400 names the field and what can be had.
pub(super) fn fit(
    sets: &[CharacterSet],
    character_set: &mut Option<String>,
    collation: &mut Option<String>,
) -> Result<()> {
    for (field, value) in [("character_set", &*character_set), ("collate", &*collation)] {
        if let Some(value) = value {
            check_form(field, value)?;
        }
    }
    let Some(default) = sets.first() else { return Ok(()) };
    if character_set.is_none() && collation.is_none() {
        return Ok(());
    }
    let set = match character_set.as_deref() {
        None => default,
        Some(meant) => trove_strategy::character_set(sets, meant).ok_or_else(|| {
            let all = listed(sets.iter().map(|set| set.name.as_str()));
            Error::BadRequest(format!("character_set {} is not one of this datastore's: {all}.", shown(meant)))
        })?,
    };
    let fitting = match collation.as_deref() {
        None => set.default_collation.as_str(),
        Some(meant) => set.collation(meant).ok_or_else(|| {
            let (name, all) = (&set.name, listed(set.collations.iter().map(String::as_str)));
            Error::BadRequest(format!(
                "collate {} does not fit the character set {name}, which has {all}.",
                shown(meant)
            ))
        })?,
    };
    *collation = Some(fitting.to_owned());
    *character_set = Some(set.name.clone());
    Ok(())
}

/// Refuses what cannot be the name of a character set or a collation.
fn check_form(field: &str, value: &str) -> Result<()> {
    let known = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
    if !value.is_empty() && value.len() <= MAX_BYTES && value.chars().all(known) {
        return Ok(());
    }
    Err(Error::BadRequest(format!("{field} {} is not a name.", shown(value))))
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = names.collect();
    let more = if all.len() > LISTED { format!(" and {} more", all.len() - LISTED) } else { String::new() };
    format!("{}{more}", all[..all.len().min(LISTED)].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, collations: &[&str]) -> CharacterSet {
        let mut set = CharacterSet::new(name, collations[0]);
        set.collations = collations.iter().map(|name| (*name).to_owned()).collect();
        set
    }

    fn fitted(character_set: Option<&str>, collation: Option<&str>) -> std::result::Result<String, String> {
        let sets = [set("UTF8", &["C.UTF-8", "C", "en_US.utf8"]), set("LATIN1", &["C"])];
        let own = |text: Option<&str>| text.map(str::to_owned);
        let (mut character_set, mut collation) = (own(character_set), own(collation));
        fit(&sets, &mut character_set, &mut collation).map_err(|error| error.to_string())?;
        let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        Ok(format!("{} {}", shown(character_set), shown(collation)))
    }

    #[test]
    fn what_the_engine_has_is_written_as_it_does() {
        assert_eq!(fitted(None, None).unwrap(), "- -");
        assert_eq!(fitted(Some("utf8"), None).unwrap(), "UTF8 C.UTF-8");
        assert_eq!(fitted(Some("latin-1"), None).unwrap(), "LATIN1 C");
        assert_eq!(fitted(None, Some("en_US.UTF-8")).unwrap(), "UTF8 en_US.utf8");
        assert_eq!(fitted(Some("LATIN1"), Some("C")).unwrap(), "LATIN1 C");
    }

    #[test]
    fn what_it_has_not_is_refused_with_what_there_is() {
        let refused = fitted(Some("latin9"), None).unwrap_err();
        assert_eq!(refused, "character_set \"latin9\" is not one of this datastore's: UTF8, LATIN1.");
        let refused = fitted(Some("latin1"), Some("en_US.UTF-8")).unwrap_err();
        assert_eq!(refused, "collate \"en_US.UTF-8\" does not fit the character set LATIN1, which has C.");
        assert!(fitted(None, Some("en_UX.UTF-8")).is_err() && fitted(Some("x; y"), None).is_err());
    }

    #[test]
    fn a_manifest_that_does_not_tell_leaves_it_to_the_engine() {
        let (mut character_set, mut collation) = (Some("utf8mb4".to_owned()), None);
        fit(&[], &mut character_set, &mut collation).unwrap();
        assert_eq!((character_set.as_deref(), collation), (Some("utf8mb4"), None));
    }
}
