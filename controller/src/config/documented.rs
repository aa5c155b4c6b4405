//! The meaning of every option. `config show` prints it, so that its output is a template for a configuration file.

use toml::Value;

use super::Config;
use crate::error::{Error, Result};

/// Section (empty for the top level), option, meaning; in the order of printing.
const OPTIONS: &[(&str, &str, &str)] = &[
    ("", "region", "Name of the region, shown in instances and in the service catalog."),
    ("", "compute", "The compute driver, which makes hosts: process or docker."),
    (
        "",
        "default_datastore",
        "The datastore of instances whose create request names none. Unset: the only one, if there is just one.",
    ),
    ("", "root_on_create", "Whether every create request enables root and returns its password."),
    ("", "max_accepted_volume_size", "Greatest volume size of an instance, GiB."),
    (
        "datastores",
        "only",
        "The only datastores that are registered by themselves, by name. Empty: all that are installed.",
    ),
    (
        "datastores",
        "allow_open",
        "Names of datastores without accounts that may be used all the same. Anybody who reaches the port of such an instance has access.",
    ),
    (
        "datastores",
        "tls",
        "basic: engines offer TLS and accept clear connections, too. enforced: they refuse clear ones. Takes effect on running engines.",
    ),
    ("api", "listen", "Address of the API and the built-in identity. TLS is required, except on a loopback address."),
    (
        "api",
        "public_url",
        "URL by which clients reach the API, used in links and the service catalog. Unset: http(s)://<listen>.",
    ),
    ("api", "tls_by_proxy", "A proxy in front terminates TLS, so that the API may listen without TLS on any address."),
    (
        "api",
        "cors_origins",
        "Origins whose web pages may use the API from a browser (CORS): [\"https://dashboard.example.org\"].",
    ),
    ("api", "tls_certificate", "Certificate chain, PEM. With tls_key the API uses TLS itself."),
    ("api", "tls_key", "Private key of tls_certificate, PEM."),
    (
        "api",
        "answer_within",
        "How long the answer to a grant, a revocation, a change of a user and a root-disable waits for the change to take effect.",
    ),
    (
        "api",
        "idle_timeout",
        "A connection without a request for this time is closed; so is one whose client does not read an answer.",
    ),
    (
        "api",
        "max_connections",
        "Greatest number of connections. Unset: a quarter of the limit of open files, at most 8192.",
    ),
    (
        "api",
        "max_connections_per_source",
        "Greatest number of connections from one address (IPv6: /64). Unset: a quarter of max_connections.",
    ),
    (
        "api",
        "trusted_proxies",
        "Addresses of proxies. max_connections_per_source does not apply to them, and the last entry of X-Forwarded-For counts as the source of logins.",
    ),
    ("agents", "listen", "Address to which agents connect; always TLS with certificates of both sides."),
    ("agents", "advertise", "The address that agents are given, host:port. Unset: listen."),
    ("agents", "heartbeat_interval", "Time between two heartbeats of an agent, whole seconds."),
    (
        "agents",
        "heartbeat_expiry",
        "After this time without a heartbeat, the operating_status of the instance is ERROR.",
    ),
    ("agents", "probe_interval", "Time between two probes of an engine by its agent, whole seconds."),
    (
        "agents",
        "certificate_lifetime",
        "Lifetime of an agent's certificate; it is renewed between a half and two thirds of it.",
    ),
    ("agents", "token_lifetime", "Lifetime of the single-use token with which a new agent enrols."),
    (
        "identity",
        "mode",
        "Which tokens are accepted: builtin (of this service's own users, at /identity/v3) or keystone (a real Keystone, see below).",
    ),
    (
        "identity",
        "policy_file",
        "Policy file in the format of oslo.policy, which overrides the built-in rules: YAML, or JSON (.json).",
    ),
    ("identity", "token_lifetime", "Lifetime of a token of the built-in identity."),
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
    ("store", "password_file", "A file with the password of the user in url."),
    (
        "operations",
        "lease",
        "After this time without a sign of life, the operations of a controller are taken over by another one.",
    ),
    (
        "operations",
        "paused",
        "This controller accepts requests but begins no operation; they wait for another controller, or for its next start without this.",
    ),
    (
        "backups",
        "storage",
        "What keeps backups: fs (a directory, which this service serves to agents), s3 or swift (see below).",
    ),
    (
        "backups",
        "directory",
        "Directory of backups, which is closed to other accounts. Several controllers share it. Unset: objects in the state directory.",
    ),
    (
        "backups",
        "recipients",
        "Public keys of age (age1...) that open every backup besides this service: [\"age1...\"]. Keep the secret keys elsewhere.",
    ),
    ("backups", "segment_mib", "Greatest size of one object of a backup, MiB, 1 to 24."),
    (
        "backups",
        "grant_lifetime",
        "How long an agent may begin to read or write an object that it was granted, at most an hour.",
    ),
    (
        "backups",
        "log_interval",
        "How often what was written is stored where points in time are asked for, a second to an hour.",
    ),
    ("backups", "log_idle_interval", "The same where less than 1 MiB was written meanwhile, log_interval to a day."),
    ("backups", "least_schedule_interval", "Least time between two backups of a schedule, a second to a day."),
    (
        "backups",
        "scheduled_at_once",
        "How many backups of schedules are taken at once, by all controllers together. More wait for the end of one.",
    ),
    ("s3", "endpoint", "Address of S3, or of what speaks its API: https://s3.example.org."),
    ("s3", "region", "The region that requests are signed for."),
    ("s3", "bucket", "The bucket, which is there and keeps nothing else."),
    (
        "s3",
        "path_style",
        "Whether the bucket's name is in the path of addresses (endpoint/bucket), or in the name of the host (bucket.endpoint).",
    ),
    ("s3", "access_key", "The access key, which agents see in addresses that they are given."),
    ("s3", "secret_key", "The secret key; better set TROVE_S3__SECRET_KEY or secret_key_file. Never printed."),
    ("s3", "secret_key_file", "A file with the secret key, read at the start."),
    (
        "s3",
        "ca_file",
        "Certificate authorities for the endpoint's certificate, PEM; agents are given them, too. Unset: those that the system trusts.",
    ),
    ("swift", "storage_url", "Address of the account at Swift: https://swift.example.org/v1/AUTH_0123."),
    ("swift", "container", "The container, which is there and keeps nothing else."),
    (
        "swift",
        "temp_url_key",
        "The key that signs addresses, X-Container-Meta-Temp-URL-Key of the container; better set TROVE_SWIFT__TEMP_URL_KEY or temp_url_key_file. Never printed.",
    ),
    ("swift", "temp_url_key_file", "A file with this key, read at the start."),
    (
        "swift",
        "auth_url",
        "Where the service gets a token, to list the container: Keystone's address that ends with /v3, or one of Swift's own (…/auth/v1.0).",
    ),
    ("swift", "username", "Name of the service's user there."),
    ("swift", "password", "Password of this user; better set TROVE_SWIFT__PASSWORD or password_file. Never printed."),
    ("swift", "password_file", "A file with the password, read at each login."),
    ("swift", "user_domain_name", "Domain of the user at Keystone, by name."),
    ("swift", "project_name", "The project that the account at Swift is of, by name."),
    ("swift", "project_domain_name", "Domain of the project, by name."),
    (
        "swift",
        "ca_file",
        "Certificate authorities for Swift's and Keystone's certificate, PEM; agents are given them, too. Unset: those that the system trusts.",
    ),
    ("keystone", "auth_url", "Keystone's address, with or without /v3."),
    ("keystone", "www_authenticate_uri", "Keystone's address for users, sent with each 401. Unset: auth_url."),
    ("keystone", "username", "Name of this service's user at Keystone."),
    (
        "keystone",
        "password",
        "Password of this user; better set TROVE_KEYSTONE__PASSWORD or password_file. Never printed.",
    ),
    ("keystone", "password_file", "A file with the password, read at each login."),
    ("keystone", "user_domain_name", "Domain of the user, by name."),
    ("keystone", "project_name", "The project in which the user has the role service or admin."),
    ("keystone", "project_domain_name", "Domain of the project, by name."),
    (
        "keystone",
        "ca_file",
        "Certificate authorities for Keystone's certificate, PEM. Unset: those that the system trusts.",
    ),
    ("keystone", "cache_lifetime", "How long a validated token is cached. A revocation takes effect after this time."),
    ("keystone", "cache_size", "Greatest number of cached tokens."),
    ("keystone", "timeout", "Time limit of one request to Keystone."),
    ("quota", "max_instances_per_tenant", "Instances of a project; -1 is unlimited, here and below."),
    ("quota", "max_ram_per_tenant", "Memory of all instances of a project, MiB."),
    ("quota", "max_volumes_per_tenant", "Volumes of all instances of a project, GiB."),
    ("quota", "max_backups_per_tenant", "Backups of a project."),
    ("quota", "max_configurations_per_tenant", "Configuration groups of a project."),
    ("rate_limits", "get", "GET requests per minute of one project at one controller; 0 is unlimited, here and below."),
    ("rate_limits", "post", "POST requests, except those below /mgmt."),
    ("rate_limits", "put", "PUT requests."),
    ("rate_limits", "delete", "DELETE requests."),
    ("rate_limits", "mgmt_post", "POST requests below /mgmt."),
    ("metrics", "listen", "Address of /metrics for Prometheus, without TLS and authentication. Unset: not served."),
    ("metrics", "allow_remote", "Allows metrics.listen to be an address other than loopback."),
    ("process", "address_range", "Addresses of instances are taken from this part of 127.0.0.0/8."),
    (
        "process",
        "uid_range",
        "As root: user ids of engines, one for each instance. The default is used neither by Debian's useradd nor for subordinate ids.",
    ),
    ("process", "engine_account", "As root: the account that runs an engine while its manifest is made."),
    (
        "process",
        "runtime_dir",
        "Directory for sockets; its path must be short. Unset: /run/trove-rs for root, else below XDG_RUNTIME_DIR or /tmp.",
    ),
    (
        "process",
        "hosts_dir",
        "Directory of hosts, which the controllers of a machine share. Unset: hosts in the state directory.",
    ),
    ("process", "agent_program", "The agent program. Unset: trove-agent in the directory of the controller's program."),
    (
        "process",
        "allow_root",
        "Allows root-enable, which gives tenants a shell, although hosts are not separated (when not run as root).",
    ),
    ("docker", "socket", "Socket of the Docker Engine, which must run on this machine."),
    (
        "docker",
        "address_range",
        "Private range, a /24 of which becomes the network of each project. The first address is for agents.listen.",
    ),
    (
        "docker",
        "volumes_dir",
        "Directory of hosts with their volumes, which the controllers of a machine share. Unset: docker in the state directory.",
    ),
    ("log", "filter", "Log filter: info, or trove_controller=debug,info. The log goes to standard error."),
    ("log", "json", "Log one JSON object per line instead of text."),
    ("", "flavors", "[[flavors]]: id, name, ram_mib, vcpus."),
];

/// The configuration as TOML, with the meaning of every option, and without hashes of passwords.
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
