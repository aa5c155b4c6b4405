//! Markers of lists that are paged by names. A name may contain whatever a URL gives a meaning to, and some clients put the
//! marker of a link into their next URL as it is, others quote it, or quote it twice. So what is given out is base64url.
//!
//! A name that a client gives by hand is a marker too. The two cannot be mistaken for each other: what is given out is
//! longer than any name can be.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The marker of a name, where names have `longest` bytes at most.
pub(super) fn of(name: &str, longest: usize) -> String {
    let mut bytes = name.as_bytes().to_vec();
    // No name has a NUL.
    bytes.resize(longest.max(bytes.len()).max(1), 0);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The name that a marker stands for: one that was given out, or the name itself.
pub(super) fn name(marker: &str, longest: usize) -> String {
    given_out(marker, longest).unwrap_or_else(|| marker.to_owned())
}

fn given_out(marker: &str, longest: usize) -> Option<String> {
    if marker.len() <= longest {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(marker).ok().filter(|bytes| bytes.len() >= longest)?;
    let text = String::from_utf8(bytes).ok()?;
    Some(text.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_marker_is_unreserved_and_stands_for_its_name(text in "[^\0]{1,30}", longest in 1_usize..300) {
            let marker = of(&text, longest);
            prop_assert!(marker.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)));
            prop_assert!(marker.len() > longest, "a name could be taken for it");
            prop_assert_eq!(name(&marker, longest), text.clone());
            prop_assert_eq!(name(&text, longest.max(text.len())), text);
        }
    }

    #[test]
    fn a_name_that_looks_like_a_marker_is_a_name() {
        let looks = of("r&d", 4);
        assert_eq!(name(&looks, 63), looks);
        assert_eq!(name(&of(&looks, 63), 63), looks);
    }
}
