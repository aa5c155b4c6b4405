//! Which passwords an engine takes, so that the API can refuse a wrong one before any agent exists.

use serde::{Deserialize, Serialize};
use stringprep::tables;

/// Rules for passwords.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PasswordRules {
    /// Whether clients and engine prepare a password by SASLprep (RFC 4013) before they use it. They do not agree on all:
    /// some look for forbidden characters before they normalise and others after, and some take a password as it is
    /// where others refuse it. One that not all would prepare in the same way could not log in.
    #[serde(default)]
    pub saslprep: bool,
    /// The longest, bytes of UTF-8, for engines that bound it below 255 characters. The service's own have 24.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<usize>,
    /// Characters that are refused, besides NUL.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub forbidden_characters: String,
}

impl PasswordRules {
    /// What is wrong with a password, to follow its owner in a sentence, without showing it. `None` when every client that
    /// follows the rules gets in with it.
    pub fn refusal(&self, password: &str) -> Option<String> {
        if let Some(max) = self.max_bytes.filter(|max| password.len() > *max) {
            Some(format!("is longer than {max} bytes"))
        } else if let Some(bad) = password.chars().find(|c| *c == '\0' || self.forbidden_characters.contains(*c)) {
            Some(format!("contains the character {bad:?}"))
        } else if self.saslprep && !(stringprep::saslprep(password).is_ok() && fit_before_normalising(password)) {
            let reason = "contains what clients prepare differently (SASLprep, RFC 4013): characters newer than Unicode \
                          3.2, control characters, or writing from right to left among other characters";
            Some(reason.to_owned())
        } else {
            None
        }
    }
}

/// Steps 2.3 to 2.5 of RFC 4013 on what has not been normalised yet, as PostgreSQL and libpq take them.
fn fit_before_normalising(password: &str) -> bool {
    let space = |c: char| if tables::non_ascii_space_character(c) { ' ' } else { c };
    let mapped: Vec<char> = password.chars().map(space).filter(|c| !tables::commonly_mapped_to_nothing(*c)).collect();
    let prohibited = |c: &char| {
        tables::ascii_control_character(*c)
            || tables::non_ascii_control_character(*c)
            || tables::private_use(*c)
            || tables::non_character_code_point(*c)
            || tables::surrogate_code(*c)
            || tables::inappropriate_for_plain_text(*c)
            || tables::inappropriate_for_canonical_representation(*c)
            || tables::change_display_properties_or_deprecated(*c)
            || tables::tagging_character(*c)
            || tables::unassigned_code_point(*c)
    };
    let right_to_left = |c: &char| tables::bidi_r_or_al(*c);
    let mixed = mapped.iter().any(right_to_left)
        && (mapped.iter().any(|c| tables::bidi_l(*c))
            || !mapped.first().is_some_and(right_to_left)
            || !mapped.last().is_some_and(right_to_left));
    !mapped.is_empty() && !mapped.iter().any(prohibited) && !mixed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_do_not_agree_on_is_refused() {
        let rules = PasswordRules { saslprep: true, ..PasswordRules::default() };
        for fine in ["Secret-1", "pässwörd", "no\u{a0}break \u{fb01} u\u{308}", "Ωμέγα", "пароль", "密码", "שלום"]
        {
            assert_eq!(rules.refusal(fine), None, "{fine}");
        }
        // Unassigned in Unicode 3.2, before or after it is normalised; mapped to nothing; mixed direction, before or after.
        for refused in ["⅐ cup", "xₙ", "😀", "\u{ad}", "a\u{7}b", "שלום!", "א℡א", "\u{627}\u{653}"] {
            assert!(rules.refusal(refused).is_some(), "{refused}");
            assert_eq!(
                PasswordRules::default().refusal(refused),
                None,
                "{refused}: engines that do not prepare it take any"
            );
        }
    }

    #[test]
    fn what_the_engine_bounds_is_refused_without_showing_it() {
        let rules = PasswordRules { max_bytes: Some(8), forbidden_characters: ":".to_owned(), ..Default::default() };
        assert_eq!(rules.refusal("sésame-1").as_deref(), Some("is longer than 8 bytes"));
        assert_eq!(rules.refusal("a:b").as_deref(), Some("contains the character ':'"));
        assert_eq!(rules.refusal("sesame-1"), None);
    }
}
