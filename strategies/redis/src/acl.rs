//! The file of accounts: who there is before the first start, and what is put right before every other.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use trove_strategy::{Directory, EngineError, File, Location, Owner, Site};

/// The agent's account in the server.
pub(crate) const ADMIN: &str = "os_admin";

/// The account that a connection has before it says another name: tenants may ask for it as root.
pub(crate) const ROOT: &str = "default";

/// All there is: the agent's account.
const EVERYTHING: [&str; 3] = ["~*", "&*", "+@all"];

/// What no account of tenants has, `default` included: whatever reaches the host, other machines or the agent.
///
/// - `acl`: the agent's account. The four that stay tell nothing of other accounts.
/// - `client|kill`, `client|pause`: the agent's connection, which is kept so that it is there when all others are taken.
/// - `cluster`, `failover`, `migrate`, `psync`, `replconf`, `replicaof`, `slaveof`, `sync`: connections to and from other
///   machines.
/// - `config|rewrite`, `config|set`: listeners and files. Parameters go through the service, which knows which are whose.
/// - `debug`, `module`: code and crashes.
/// - `save`, `script|debug`, `shutdown`: nobody is answered meanwhile, the agent neither. A debugged script has a process of
///   its own besides, which ignores SIGTERM.
///
/// The server replays its log of writes as the account `default`, also while that is switched off, and what it may not do
/// there is dropped silently. So only commands that never come out of a log may stand here: none of these writes data, but
/// `migrate`, which the log has as DEL.
const LOST: [&str; 22] = [
    "-acl",
    "+acl|cat",
    "+acl|genpass",
    "+acl|help",
    "+acl|whoami",
    "-client|kill",
    "-client|pause",
    "-cluster",
    "-config|rewrite",
    "-config|set",
    "-debug",
    "-failover",
    "-migrate",
    "-module",
    "-psync",
    "-replconf",
    "-replicaof",
    "-save",
    "-script|debug",
    "-shutdown",
    "-slaveof",
    "-sync",
];

/// What accounts of tenants may do besides [`LOST`]: everything with data, nothing with the server.
const TENANT: [&str; 13] = [
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

/// The rights of `default`.
pub(crate) fn of_root() -> Vec<&'static str> {
    [EVERYTHING.as_slice(), &LOST].concat()
}

/// The rights of an account that a tenant makes; fewer than root's.
pub(crate) fn of_tenants() -> Vec<&'static str> {
    [TENANT.as_slice(), &LOST].concat()
}

/// Where the server keeps its accounts: on the volume, since they belong to the data.
pub(crate) fn file() -> Location {
    Directory::Data.join("data/users.acl")
}

/// The longest file of accounts that is read, bytes: tens of thousands of accounts.
pub(crate) const FILE_BYTES: u64 = 16 << 20;

/// What the server stores of a password: its SHA-256, so that no password is in a command or a file.
pub(crate) fn verifier(password: &SecretString) -> String {
    format!("#{}", hex::encode(Sha256::digest(password.expose_secret().as_bytes())))
}

/// A password that nobody has to remember.
pub(crate) fn random_password() -> SecretString {
    SecretString::from(hex::encode(rand::random::<[u8; 32]>()))
}

fn password_file() -> Location {
    Directory::Secrets.join(ADMIN)
}

const PASSWORD_BYTES: u64 = 1 << 10;

/// The password of the agent's account, when it has been made.
pub(crate) async fn admin_password(site: &Site) -> Result<Option<SecretString>, EngineError> {
    let bytes = site.host.read(&password_file(), PASSWORD_BYTES).await?;
    Ok(bytes.map(|bytes| SecretString::from(String::from_utf8_lossy(&bytes).into_owned())))
}

/// Makes the agent's password, and the file of accounts, or puts right what must hold in it. The server writes the same
/// file when it is asked to save its accounts, which waits meanwhile.
pub(crate) async fn ensure(site: &Site, saving: &Mutex<()>) -> Result<(), EngineError> {
    let password = match admin_password(site).await? {
        Some(password) => password,
        None => {
            let password = random_password();
            let contents = password.expose_secret().as_bytes().to_vec();
            site.host.write(File { at: password_file(), contents, mode: 0o600, owner: Owner::Agent }).await?;
            password
        }
    };
    let at = file();
    let _alone = saving.lock().await;
    let before = site.host.read(&at, FILE_BYTES).await?.unwrap_or_default();
    let after = righted(&String::from_utf8_lossy(&before), &verifier(&password));
    if after.as_bytes() != before.as_slice() {
        let contents = after.into_bytes();
        site.host.write(File { at, contents, mode: 0o600, owner: Owner::Engine }).await?;
    }
    Ok(())
}

/// The accounts that there are, for a backup: the agent's has a password of this site's.
pub(crate) async fn of_others(site: &Site, saving: &Mutex<()>) -> Result<String, EngineError> {
    let _alone = saving.lock().await;
    let text = site.host.read(&file(), FILE_BYTES).await?.unwrap_or_default();
    Ok(without_agent(&String::from_utf8_lossy(&text)))
}

/// The accounts without the agent's.
pub(crate) fn without_agent(text: &str) -> String {
    let is_agent = |line: &str| line.split(' ').take(2).eq(["user", ADMIN]);
    text.lines().filter(|line| !is_agent(line)).map(|line| format!("{line}\n")).collect()
}

/// The same accounts with an agent's account that can log in, a `default` that has exactly the rights of root and lets
/// nobody in without a password, and no account that has one of [`LOST`].
fn righted(text: &str, admin: &str) -> String {
    let everything = EVERYTHING.join(" ");
    let agent = format!("user {ADMIN} on {admin} {everything}");
    let root = |state: &str, hashes: &[&str]| [&["user", ROOT, state], hashes, &of_root()].concat().join(" ");
    let mut lines = Vec::new();
    let (mut has_default, mut has_agent) = (false, false);
    // What is no account's line, or holds what the server would read otherwise than it is read here, is left out: it
    // takes these off a rule's ends, and refuses a name with them. A name may have other control characters.
    for line in text.lines().filter(|line| !line.contains(['\0', '\t', '\r', '\u{b}', '\u{c}'])) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["user", ROOT, rules @ ..] => {
                has_default = true;
                let hashes: Vec<&str> = rules.iter().copied().filter(|rule| rule.starts_with('#')).collect();
                let on = rules.contains(&"on") && !rules.contains(&"nopass");
                // The server writes rights in an order of its own: they cannot be compared as text.
                lines.push(root(if on { "on" } else { "off" }, &hashes));
            }
            ["user", ADMIN, rules @ ..] => {
                has_agent = true;
                // Nothing less, and no other password: whoever was root could come back by one.
                let known = [&["on", admin], EVERYTHING.as_slice()].concat();
                let well = rules.iter().filter(|rule| **rule != "sanitize-payload").eq(&known);
                lines.push(if well { line.to_owned() } else { agent.clone() });
            }
            ["user", name, rules @ ..] => lines.push(format!("user {name} {}", reduced(&rules.join(" ")))),
            _ => {}
        }
    }
    if !has_agent {
        lines.insert(0, agent);
    }
    if !has_default {
        lines.insert(0, root("off", &[]));
    }
    lines.join("\n") + "\n"
}

/// An account's rules without the rights that are [`LOST`], also in its selectors: `on #… ~* +@all (~k +get)`. What follows a
/// selector, or is half of one, with which the server does not start, stays as it is before the same once more.
fn reduced(rules: &str) -> String {
    let lost = LOST.join(" ");
    let without = |rights: &str| {
        if rights.ends_with(&lost) { rights.to_owned() } else { format!("{rights} {lost}") }
    };
    let mut parts = rules.split(" (");
    let mut all = without(parts.next().unwrap_or_default());
    let mut is_whole = true;
    for part in parts {
        match part.strip_suffix(')') {
            Some(rights) if !rights.contains(')') => all.push_str(&format!(" ({})", without(rights))),
            _ => {
                is_whole = false;
                all.push_str(&format!(" ({part}"));
            }
        }
    }
    if is_whole { all } else { without(&all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> String {
        format!("user default off {}\nuser os_admin on #aa ~* &* +@all\n", of_root().join(" "))
    }

    #[test]
    fn the_first_file_lets_the_agent_in_and_nobody_else() {
        assert_eq!(righted("", "#aa"), first());
        assert_eq!(righted(&first(), "#aa"), first());
    }

    #[test]
    fn the_default_account_has_exactly_the_rights_of_root_and_is_never_open() {
        let root = of_root().join(" ");
        for (rules, state) in [
            ("off ~* &* +@all", "off"),
            ("off ~* &* +@all -@all", "off"),
            ("on nopass ~* &* +@all", "off"),
            ("on #22 ~x +get", "on #22"),
            ("on #22 ~* &* +@all", "on #22"),
            ("on #22 ~* &* -@all (~k +set)", "on #22"),
        ] {
            let text = format!("user default {rules}\nuser os_admin on #aa ~* &* +@all\n");
            let expected = format!("user default {state} {root}\nuser os_admin on #aa ~* &* +@all\n");
            assert_eq!(righted(&text, "#aa"), expected, "{rules}");
        }
    }

    #[test]
    fn a_line_that_the_server_would_read_otherwise_is_left_out_and_any_other_name_stays() {
        let lost = LOST.join(" ");
        let kept = format!("{}user \u{85}\u{1}\u{7f}\u{a0} on #11 ~* {lost}\n", first());
        let text = format!("{kept}user b on #11 ~* \t+@all\nuser c\u{b} on #11 ~*\nuser d\0 on #11 ~*\n");
        assert_eq!(righted(&text, "#aa"), kept);
    }

    #[test]
    fn no_account_of_a_tenant_keeps_what_root_lacks() {
        let lost = LOST.join(" ");
        let text = format!("{}user (a\" on #11 ~* +@all (~k &* +@all) (%R~l +get)\nuser c off\n", first());
        let expected = format!(
            "{}user (a\" on #11 ~* +@all {lost} (~k &* +@all {lost}) (%R~l +get {lost})\nuser c off {lost}\n",
            first()
        );
        assert_eq!(righted(&text, "#aa"), expected);
        assert_eq!(righted(&expected, "#aa"), expected);
        let made = format!("{}user d on #11 {}\n", first(), of_tenants().join(" "));
        assert_eq!(righted(&made, "#aa"), made);
    }

    #[test]
    fn the_agents_account_loses_no_right_and_gains_no_password() {
        for changed in
            ["on #aa ~* &* +@all -acl", "on #aa #bb ~* &* +@all", "on nopass ~* &* +@all", "off #aa ~* &* +@all"]
        {
            let text = first().replace("on #aa ~* &* +@all", changed);
            assert_eq!(righted(&text, "#aa"), first(), "{changed}");
        }
        let newer = first().replace("on #aa", "on sanitize-payload #aa");
        assert_eq!(righted(&newer, "#aa"), newer);
    }

    #[test]
    fn a_backup_has_the_accounts_of_others() {
        let text = format!("{}user os_admins on #11 ~* +@all\n", first());
        let root = of_root().join(" ");
        assert_eq!(without_agent(&text), format!("user default off {root}\nuser os_admins on #11 ~* +@all\n"));
    }

    #[test]
    fn an_agent_that_has_another_password_by_now_gets_in_again() {
        assert_eq!(righted(&first(), "#bb"), first().replace("#aa", "#bb"));
    }

    #[test]
    fn a_verifier_is_the_sha_256_in_hex() {
        let known = "#2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        assert_eq!(verifier(&SecretString::from("secret")), known);
    }
}
