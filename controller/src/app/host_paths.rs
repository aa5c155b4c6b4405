//! Paths of the machine in sentences that tenants read: where a service keeps its things is its operators' affair.

/// The text with each absolute path reduced to its last part: `open /var/lib/x/engine.conf: no space` tells a tenant as
/// much as `open engine.conf: no space`.
pub fn without_host_paths(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let (mut rest, mut before) = (text, None);
    while let Some(next) = rest.chars().next() {
        let path = if next == '/' && before.is_none_or(begins_path) { path(rest) } else { None };
        let taken = match path {
            Some(path) => {
                clean.push_str(path.trim_end_matches('/').rsplit('/').next().unwrap_or_default());
                path
            }
            None => {
                clean.push(next);
                &rest[..next.len_utf8()]
            }
        };
        before = taken.chars().next_back();
        rest = &rest[taken.len()..];
    }
    clean
}

/// Whether a slash after this begins a path: it does not in `10.0.0.0/8`, in `and/or` and in a URL.
fn begins_path(before: char) -> bool {
    before.is_whitespace() || "\"'`‘’“”«»()[]{}<>=:,;".contains(before)
}

/// The path that a text begins with.
fn path(text: &str) -> Option<&str> {
    let ends = |c: char| c.is_whitespace() || "\"'`‘’“”«»()[]{}<>:,;".contains(c);
    let path = text.find(ends).map_or(text, |end| &text[..end]);
    path[1..].chars().next().filter(|first| *first != '/').map(|_| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_reduced_and_what_looks_like_them_is_not() {
        for (text, clean) in [
            ("open /var/lib/trove/x/engine.conf: no space left", "open engine.conf: no space left"),
            ("write \"/run/trove-rs/a/engine.sock\" failed", "write \"engine.sock\" failed"),
            ("/usr/lib/engine/15/bin/initdb: exit status 1", "initdb: exit status 1"),
            ("stat /srv/data/: permission denied (/srv)", "stat data: permission denied (srv)"),
            ("path=/etc/passwd, /a/b.", "path=passwd, b."),
            ("10.0.0.0/8 and/or http://h:1/v3 and 3 / 4", "10.0.0.0/8 and/or http://h:1/v3 and 3 / 4"),
            ("nothing at all", "nothing at all"),
            ("“/ü/ö”", "“ö”"),
        ] {
            assert_eq!(without_host_paths(text), clean, "{text}");
        }
    }
}
