//! Every option with its meaning: printed by `config show`, so that what is printed is a template.

use toml::Value;

use super::Config;
use crate::error::{Error, Result};

/// Section (empty for the top), option, meaning. In the order of printing.
const OPTIONS: &[(&str, &str, &str)] = &[
    ("", "region", "Name of the region, shown in instances and in the catalog."),
    ("", "compute", "The driver that makes hosts: process."),
    ("", "default_datastore", "The datastore that is meant when an order names none. Unset: the only one there is."),
    ("", "root_on_create", "Whether root is enabled by every create, and its password returned by it."),
    ("", "max_accepted_volume_size", "Greatest volume that can be ordered, GiB."),
    (
        "datastores",
        "allow_open",
        "Datastores without accounts, by name, that can be ordered all the same: whoever reaches the port of one is in.",
    ),
    (
        "datastores",
        "tls",
        "basic: engines offer TLS and accept clear connections too; enforced: they refuse clear ones. Running engines change, too.",
    ),
    ("api", "listen", "Where the API and the identity listen. Another than a loopback address needs TLS."),
    ("api", "public_url", "How clients reach it; links and the catalog are made from it. Unset: http(s)://<listen>."),
    ("api", "tls_by_proxy", "Says that a proxy in front speaks TLS, which allows to listen anywhere in clear."),
    (
        "api",
        "cors_origins",
        "Origins whose web pages may use the API from a browser: [\"https://dashboard.example.org\"].",
    ),
    ("api", "tls_certificate", "PEM certificate chain; with tls_key the API speaks TLS itself."),
    ("api", "tls_key", "PEM private key of tls_certificate."),
    (
        "api",
        "answer_within",
        "How long the answer to a grant, a revocation, a new password, a new name and root's disabling waits until that acts.",
    ),
    (
        "api",
        "idle_timeout",
        "A connection in which no request is under way for so long is closed; also for reading an answer.",
    ),
    (
        "api",
        "max_connections",
        "Connections at most. Unset: a quarter of the open files that are allowed, at most 8192.",
    ),
    (
        "api",
        "max_connections_per_source",
        "Connections from one address (IPv6: /64) at most. Unset: a quarter of those.",
    ),
    (
        "api",
        "trusted_proxies",
        "Proxies, by address: no limit of one address is theirs, and the last entry of X-Forwarded-For counts as the source of logins.",
    ),
    ("agents", "listen", "Where agents connect to; always TLS with certificates of both sides."),
    ("agents", "advertise", "The address that agents are told, host:port. Unset: listen."),
    ("agents", "heartbeat_interval", "Time between two heartbeats of an agent, whole seconds."),
    ("agents", "heartbeat_expiry", "A silent agent makes its instance's operating_status ERROR after this time."),
    ("agents", "probe_interval", "Time between two probes of an engine by its agent, whole seconds."),
    ("agents", "certificate_lifetime", "Life of an agent's certificate; renewed between a half and two thirds of it."),
    ("agents", "token_lifetime", "Life of the single-use token with which a new agent enrols."),
    (
        "identity",
        "mode",
        "Whose tokens are accepted: builtin (users of this service, at /identity/v3) or keystone (a real one, below).",
    ),
    ("identity", "policy_file", "Rules that override the built-in ones, as oslo.policy: YAML, or JSON (.json)."),
    ("identity", "token_lifetime", "Life of a token of the built-in identity."),
    (
        "identity",
        "users",
        "[[identity.users]]: name, password_hash (argon2id; trove-controller user hash), project, roles. None: demo and admin are made, see clouds.yaml.",
    ),
    (
        "store",
        "url",
        "postgres://user@host:port/database, without a password; several controllers may share it. Unset: SQLite in the state directory.",
    ),
    ("store", "password_file", "A file with the password of that user."),
    ("operations", "lease", "A controller that says nothing for so long loses its operations to another."),
    (
        "operations",
        "paused",
        "This controller takes orders and begins none: they wait for another one, or for its next start without this.",
    ),
    ("keystone", "auth_url", "Keystone's address, with or without /v3."),
    ("keystone", "www_authenticate_uri", "Its address as users know it, for the header of a 401. Unset: auth_url."),
    ("keystone", "username", "The service's own user there."),
    ("keystone", "password", "Its password; better TROVE_KEYSTONE__PASSWORD or password_file. Never printed."),
    ("keystone", "password_file", "A file with the password, read at each login."),
    ("keystone", "user_domain_name", "The domain of the user."),
    ("keystone", "project_name", "The project in which the user has the role service or admin."),
    ("keystone", "project_domain_name", "The domain of the project."),
    ("keystone", "ca_file", "PEM certificates that Keystone's has to come from. Unset: those that the system trusts."),
    ("keystone", "cache_lifetime", "How long a token is believed without asking: a revoked one is refused after it."),
    ("keystone", "cache_size", "Tokens that are remembered at most."),
    ("keystone", "timeout", "For one request to Keystone."),
    ("quota", "max_instances_per_tenant", "Instances a project may have; -1 is unlimited, here and below."),
    ("quota", "max_ram_per_tenant", "Memory of all instances of a project, MiB."),
    ("quota", "max_volumes_per_tenant", "Volumes of all instances of a project, GiB."),
    ("quota", "max_backups_per_tenant", "Backups a project may have."),
    ("rate_limits", "get", "GETs a minute of one project at one controller; 0 is unlimited, here and below."),
    ("rate_limits", "post", "POSTs, but for those below /mgmt."),
    ("rate_limits", "put", "PUTs."),
    ("rate_limits", "delete", "DELETEs."),
    ("rate_limits", "mgmt_post", "POSTs below /mgmt."),
    ("metrics", "listen", "Where /metrics is served for Prometheus, in clear and without a token. Unset: nowhere."),
    ("metrics", "allow_remote", "Allows metrics.listen to be another than a loopback address."),
    ("process", "address_range", "Addresses of instances are drawn from this part of 127.0.0.0/8."),
    (
        "process",
        "uid_range",
        "As root: accounts of engines, one each. Neither Debian's useradd nor its subordinate ids use the default.",
    ),
    ("process", "engine_account", "As root: runs an engine in a scratch directory while its manifest is made."),
    (
        "process",
        "runtime_dir",
        "Short directory for sockets. Unset: /run/trove-rs for root, else below XDG_RUNTIME_DIR or /tmp.",
    ),
    (
        "process",
        "hosts_dir",
        "Where hosts are kept; controllers of one machine share it. Unset: hosts in the state directory.",
    ),
    ("process", "agent_program", "The agent program. Unset: trove-agent beside the controller's own program."),
    (
        "process",
        "allow_root",
        "Where hosts are not kept apart, as an ordinary user's: allows root-enable, which hands out a shell.",
    ),
    ("log", "filter", "What is logged, to standard error: info, or trove_controller=debug,info."),
    ("log", "json", "One JSON object a line instead of text."),
    ("", "flavors", "[[flavors]]: id, name, ram_mib, vcpus; the sizes that local drivers offer."),
];

/// The configuration as TOML, every option with its meaning; hashes of passwords are left out.
pub fn show(config: &Config) -> Result<String> {
    let value = Value::try_from(config).map_err(|error| Error::internal("print the configuration", error))?;
    let mut text = String::from("# Set each in the file, or by TROVE_<SECTION>__<OPTION> in the environment.\n");
    let mut section = "";
    for (name, option, meaning) in OPTIONS {
        if matches!(*option, "flavors" | "users") {
            continue;
        }
        if *name != section {
            section = name;
            text.push_str(&format!("\n[{section}]\n"));
        }
        text.push_str(&format!("# {meaning}\n"));
        let table = if section.is_empty() { Some(&value) } else { value.get(section) };
        match table.and_then(|table| table.get(option)) {
            Some(set) => text.push_str(&format!("{option} = {set}\n")),
            None => text.push_str(&format!("# {option} = \n")),
        }
    }
    for user in &config.identity.users {
        let roles = Value::try_from(&user.roles).map_err(|error| Error::internal("print the configuration", error))?;
        let (name, project) = (Value::from(user.name.clone()), Value::from(user.project.clone()));
        let lines = format!("name = {name}\nproject = {project}\nroles = {roles}\n");
        text.push_str(&format!("\n[[identity.users]]\n# password_hash is not shown\n{lines}"));
    }
    for flavor in &config.flavors {
        let lines = toml::to_string(flavor).map_err(|error| Error::internal("print the configuration", error))?;
        text.push_str(&format!("\n[[flavors]]\n{lines}"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_documented_and_the_output_is_a_file_that_can_be_read() {
        let mut config = Config::default();
        config.api.public_url = Some("http://x".into());
        let value = Value::try_from(&config).unwrap();
        for (section, options) in value.as_table().unwrap() {
            match options.as_table() {
                Some(table) => {
                    for option in table.keys() {
                        assert!(OPTIONS.iter().any(|(s, o, _)| s == section && o == option), "{section}.{option}");
                    }
                }
                None => assert!(OPTIONS.iter().any(|(s, o, _)| s.is_empty() && o == section), "{section}"),
            }
        }
        let again: Config = toml::from_str(&show(&config).unwrap()).unwrap();
        assert_eq!(Value::try_from(&again).unwrap(), value);
    }
}
