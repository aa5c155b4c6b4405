//! The file of accounts: who there is before the first start, and what is put right before every other.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use trove_strategy::{EngineError, File, Owner, Site};

/// The agent's account in the server.
pub(crate) const ADMIN: &str = "os_admin";

/// The account that a connection has before it says another name: tenants may ask for it as root.
pub(crate) const ROOT: &str = "default";

/// All there is.
///
/// The server replays its log as the account `default`, also while that is switched off, and what it may not do there is
/// dropped silently: no right is ever taken off it.
pub(crate) const EVERYTHING: [&str; 3] = ["~*", "&*", "+@all"];

/// What accounts of tenants may do: everything with data, nothing with the server, and no connections to elsewhere.
pub(crate) const TENANT: &[&str] = &[
    "~*",
    "&*",
    "+@all",
    "-@admin",
    "-@dangerous",
    "+flushall",
    "+flushdb",
    "+info",
    "+keys",
    "+role",
    "+sort",
    "+sort_ro",
    "+swapdb",
];

/// Where the server keeps its accounts: on the volume, since they belong to the data.
pub(crate) fn file(site: &Site) -> PathBuf {
    site.data.join("users.acl")
}

/// What the server stores of a password: its SHA-256, so that no password is in a command or a file.
pub(crate) fn verifier(password: &SecretString) -> String {
    let digest = Sha256::digest(password.expose_secret().as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("#{hex}")
}

/// A password that nobody has to remember.
pub(crate) fn random_password() -> SecretString {
    let bytes: [u8; 32] = rand::random();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    SecretString::from(hex)
}

fn password_file(site: &Site) -> PathBuf {
    site.secrets.join(ADMIN)
}

/// The password of the agent's account, when it has been made.
pub(crate) async fn admin_password(site: &Site) -> Result<Option<SecretString>, EngineError> {
    let bytes = site.host.read(&password_file(site)).await?;
    Ok(bytes.map(|bytes| SecretString::from(String::from_utf8_lossy(&bytes).into_owned())))
}

/// Makes the agent's password, and the file of accounts, or puts right what must hold in it. Written only when needed:
/// the server writes the same file whenever an account changes.
pub(crate) async fn ensure(site: &Site) -> Result<(), EngineError> {
    let password = match admin_password(site).await? {
        Some(password) => password,
        None => {
            let password = random_password();
            let contents = password.expose_secret().as_bytes().to_vec();
            site.host.write(File { path: password_file(site), contents, mode: 0o600, owner: Owner::Agent }).await?;
            password
        }
    };
    let path = file(site);
    let before = site.host.read(&path).await?.unwrap_or_default();
    let after = righted(&String::from_utf8_lossy(&before), &verifier(&password));
    if after.as_bytes() != before.as_slice() {
        let contents = after.into_bytes();
        site.host.write(File { path, contents, mode: 0o600, owner: Owner::Engine }).await?;
    }
    Ok(())
}

/// The same accounts with an agent's account that can log in, and a `default` that has every right and lets nobody in
/// without a password.
fn righted(text: &str, admin: &str) -> String {
    let everything = EVERYTHING.join(" ");
    let agent = format!("user {ADMIN} on {admin} {everything}");
    let mut lines = Vec::new();
    let (mut has_default, mut has_agent) = (false, false);
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["user", ROOT, rules @ ..] => {
                has_default = true;
                let hashes: Vec<&str> = rules.iter().copied().filter(|rule| rule.starts_with('#')).collect();
                let on = rules.contains(&"on") && !rules.contains(&"nopass");
                let whole = EVERYTHING.iter().all(|right| rules.contains(right));
                if whole && (on || !rules.contains(&"on")) && !rules.iter().any(|rule| rule.starts_with(['-', '('])) {
                    lines.push(line.to_owned());
                } else {
                    let state = if on { "on" } else { "off" };
                    let known = [&["user", ROOT, state], hashes.as_slice(), &EVERYTHING].concat();
                    lines.push(known.join(" "));
                }
            }
            ["user", ADMIN, rules @ ..] => {
                has_agent = true;
                // Nothing less, and no other password: whoever was root could come back by one.
                let known = [&["on", admin], EVERYTHING.as_slice()].concat();
                let well = rules.iter().filter(|rule| **rule != "sanitize-payload").eq(&known);
                lines.push(if well { line.to_owned() } else { agent.clone() });
            }
            _ => lines.push(line.to_owned()),
        }
    }
    if !has_agent {
        lines.insert(0, agent);
    }
    if !has_default {
        lines.insert(0, format!("user {ROOT} off {everything}"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "user default off ~* &* +@all\nuser os_admin on #aa ~* &* +@all\n";

    #[test]
    fn the_first_file_lets_the_agent_in_and_nobody_else() {
        assert_eq!(righted("", "#aa"), FIRST);
        assert_eq!(righted(FIRST, "#aa"), FIRST);
    }

    #[test]
    fn what_the_server_wrote_stays() {
        let text = "user a\"b on #11 ~* &* +@all -@admin\nuser default on #22 ~* &* +@all\n\
                    user os_admin on #aa ~* &* +@all\n";
        assert_eq!(righted(text, "#aa"), text);
    }

    #[test]
    fn the_default_account_gets_every_right_back_and_is_never_open() {
        let reduced = "user default off ~* &* +@all -@all\nuser os_admin on #aa ~* &* +@all\n";
        assert_eq!(righted(reduced, "#aa"), FIRST);
        let open = "user default on nopass ~* &* +@all\nuser os_admin on #aa ~* &* +@all\n";
        assert_eq!(righted(open, "#aa"), FIRST);
        let some = "user default on #22 ~x +get\nuser os_admin on #aa ~* &* +@all\n";
        assert!(righted(some, "#aa").starts_with("user default on #22 ~* &* +@all\n"));
    }

    #[test]
    fn the_agents_account_loses_no_right_and_gains_no_password() {
        for changed in
            ["on #aa ~* &* +@all -acl", "on #aa #bb ~* &* +@all", "on nopass ~* &* +@all", "off #aa ~* &* +@all"]
        {
            let text = FIRST.replace("on #aa ~* &* +@all", changed);
            assert_eq!(righted(&text, "#aa"), FIRST, "{changed}");
        }
        let newer = FIRST.replace("on #aa", "on sanitize-payload #aa");
        assert_eq!(righted(&newer, "#aa"), newer);
    }

    #[test]
    fn an_agent_that_has_another_password_by_now_gets_in_again() {
        assert_eq!(righted(FIRST, "#bb"), FIRST.replace("#aa", "#bb"));
    }

    #[test]
    fn a_verifier_is_the_sha_256_in_hex() {
        let known = "#2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        assert_eq!(verifier(&SecretString::from("secret")), known);
    }
}
