//! Reads and checks the configuration.

#![allow(clippy::disallowed_methods, reason = "files that the operator names")]

use std::path::Path;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use ipnet::Ipv4Net;

use super::{Config, Mode};
use crate::error::{Error, Result};

/// The environment variables with secrets, without their prefix.
const SECRETS: [&str; 4] = ["keystone__password", "s3__secret_key", "swift__password", "swift__temp_url_key"];

impl Config {
    /// Loads the effective configuration: defaults, then the file, then `TROVE_<SECTION>__<OPTION>`.
    ///
    /// # Errors
    /// 400 with the source and the option.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            if !file.is_file() {
                return Err(Error::BadRequest(format!("The configuration file {} is not there.", file.display())));
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        // These variables have the same prefix but are no options.
        let env = Env::prefixed("TROVE_").ignore(&["failpoints", "failpoints_once", "agent_failpoints"]);
        let own = |key: &figment::value::UncasedStr| {
            let first = key.as_str().split("__").next().unwrap_or_default().to_lowercase();
            Self::NAMES.contains(&first.as_str())
        };
        // figment would parse a password like 007 as a number.
        let is_secret = |key: &figment::value::UncasedStr| SECRETS.iter().any(|secret| key == *secret);
        let env = env.filter_map(move |key| (!is_secret(key)).then(|| key.into()));
        let mut config: Self = figment
            .merge(env.filter(own).split("__"))
            .extract()
            .map_err(|error| Error::BadRequest(format!("The configuration is wrong: {error}")))?;
        let Self { keystone, s3, swift, .. } = &mut config;
        let secrets = [&mut keystone.password, &mut s3.secret_key, &mut swift.password, &mut swift.temp_url_key];
        for (name, secret) in SECRETS.iter().zip(secrets) {
            if let Ok(value) = std::env::var(format!("TROVE_{}", name.to_uppercase())) {
                *secret = Some(value.into());
            }
        }
        config.check()?;
        Ok(config)
    }

    const NAMES: &[&str] = &[
        "region",
        "compute",
        "default_datastore",
        "root_on_create",
        "max_accepted_volume_size",
        "datastores",
        "api",
        "agents",
        "identity",
        "store",
        "operations",
        "backups",
        "s3",
        "swift",
        "keystone",
        "quota",
        "rate_limits",
        "metrics",
        "process",
        "docker",
        "log",
    ];

    /// Refuses configurations that cannot work or would be insecure.
    fn check(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::BadRequest(text));
        let api = &self.api;
        if api.tls_certificate.is_some() != api.tls_key.is_some() {
            return refuse("api.tls_certificate and api.tls_key go together: one of them is not set.".to_owned());
        }
        if api.idle_timeout.as_secs() == 0 {
            return refuse("api.idle_timeout must be at least a second.".to_owned());
        }
        if api.max_connections == Some(0) || api.max_connections_per_source == Some(0) {
            return refuse("api.max_connections and api.max_connections_per_source must be at least 1.".to_owned());
        }
        if !api.listen.ip().is_loopback() && api.tls_certificate.is_none() && !api.tls_by_proxy {
            return refuse(format!(
                "api.listen is {}, which is reached from outside in clear. Set api.tls_certificate and api.tls_key, or \
                 api.tls_by_proxy = true when a proxy in front speaks TLS.",
                api.listen
            ));
        }
        if let Some(listen) =
            self.metrics.listen.filter(|listen| !listen.ip().is_loopback() && !self.metrics.allow_remote)
        {
            return refuse(format!(
                "metrics.listen is {listen}, where anybody who reaches it can read the figures of every project. Set \
                 metrics.allow_remote = true when only your Prometheus does."
            ));
        }
        if self.operations.lease.as_secs() == 0 {
            return refuse("operations.lease must be at least a second.".to_owned());
        }
        if self.store.url.is_none() && self.store.password_file.is_some() {
            return refuse("store.password_file is the password for store.url, which is not set.".to_owned());
        }
        let with_password = |url: &String| url::Url::parse(url).is_ok_and(|url| url.password().is_some());
        if self.store.url.as_ref().is_some_and(with_password) {
            return refuse("store.url has a password in it: put that into a file, store.password_file.".to_owned());
        }
        self.check_identity()?;
        let agents = &self.agents;
        for (name, duration) in [
            ("heartbeat_interval", agents.heartbeat_interval),
            ("heartbeat_expiry", agents.heartbeat_expiry),
            ("probe_interval", agents.probe_interval),
            ("certificate_lifetime", agents.certificate_lifetime),
            ("token_lifetime", agents.token_lifetime),
        ] {
            if duration.as_secs() == 0 {
                return refuse(format!("agents.{name} must be at least a second."));
            }
        }
        if agents.heartbeat_expiry <= agents.heartbeat_interval {
            return refuse("agents.heartbeat_expiry must be longer than agents.heartbeat_interval.".to_owned());
        }
        self.check_backups()?;
        self.loopback_range()?;
        self.docker_range()?;
        let mut ids = std::collections::BTreeSet::new();
        for flavor in &self.flavors {
            if !ids.insert(&flavor.id) || flavor.id.is_empty() || flavor.ram_mib == 0 || flavor.vcpus == 0 {
                return refuse(format!("flavors: {:?} is there twice, or has no id, memory or core.", flavor.id));
            }
        }
        if self.flavors.is_empty() { refuse("flavors: there is none.".to_owned()) } else { Ok(()) }
    }

    fn check_backups(&self) -> Result<()> {
        let refuse = |text: String| Err(Error::BadRequest(text));
        let backups = &self.backups;
        self.check_storage()?;
        for recipient in &backups.recipients {
            if let Err(reason) = recipient.parse::<age::x25519::Recipient>() {
                return refuse(format!(
                    "backups.recipients: {recipient:?} is no public key of age, such as age-keygen prints: {reason}."
                ));
            }
        }
        let most = trove_proto::backup::SEGMENT_LIMIT >> 20;
        if !(1..=most).contains(&backups.segment_mib) {
            return refuse(format!("backups.segment_mib must be from 1 to {most}."));
        }
        if !(1..=3600).contains(&backups.log_interval.as_secs()) {
            return refuse("backups.log_interval must be from a second to an hour.".to_owned());
        }
        if backups.log_idle_interval < backups.log_interval || backups.log_idle_interval.as_secs() > 86_400 {
            return refuse("backups.log_idle_interval must be from backups.log_interval to a day.".to_owned());
        }
        if !(1..=3600).contains(&backups.grant_lifetime.as_secs()) {
            return refuse("backups.grant_lifetime must be from a second to an hour.".to_owned());
        }
        if !(1..=86_400).contains(&backups.least_schedule_interval.as_secs()) {
            return refuse("backups.least_schedule_interval must be from a second to a day.".to_owned());
        }
        if backups.scheduled_at_once == 0 {
            return refuse("backups.scheduled_at_once must be at least 1.".to_owned());
        }
        Ok(())
    }

    fn check_identity(&self) -> Result<()> {
        let refuse = |text: &str| Err(Error::BadRequest(text.to_owned()));
        if self.identity.mode == Mode::Builtin {
            return Ok(());
        }
        let keystone = &self.keystone;
        if !self.identity.users.is_empty() {
            return refuse(
                "identity.users are those of the built-in identity: with identity.mode = \"keystone\" they cannot log in.",
            );
        }
        if !keystone.auth_url.starts_with("https://") && !keystone.auth_url.starts_with("http://") {
            return refuse(
                "keystone.auth_url must be Keystone's address, such as https://keystone.example.org:5000/v3.",
            );
        }
        for (name, value) in [("username", &keystone.username), ("project_name", &keystone.project_name)] {
            if value.is_empty() {
                return refuse(&format!(
                    "keystone.{name} is not set: the service needs a user of its own at Keystone."
                ));
            }
        }
        if keystone.password.is_some() == keystone.password_file.is_some() {
            return refuse("keystone.password_file or TROVE_KEYSTONE__PASSWORD has to be set, one of the two.");
        }
        if keystone.cache_size == 0 || keystone.timeout.is_zero() {
            return refuse("keystone.cache_size and keystone.timeout must be more than nothing.");
        }
        Ok(())
    }

    /// The range that the Docker driver divides into networks of projects.
    ///
    /// # Errors
    /// 400 if `docker.address_range` is no private IPv4 network of 4 to 65536 networks of 256 addresses.
    pub fn docker_range(&self) -> Result<Ipv4Net> {
        let text = &self.docker.address_range;
        let range = text.parse().ok().filter(|range: &Ipv4Net| range.addr().is_private() && *range == range.trunc());
        range.filter(|range| (8..=22).contains(&range.prefix_len())).ok_or_else(|| {
            Error::BadRequest(format!(
                "docker.address_range is {text:?}: it must be a private IPv4 network, /8 to /22, such as 10.213.0.0/16."
            ))
        })
    }

    /// The network from which addresses of instances are taken.
    ///
    /// # Errors
    /// 400 if `process.address_range` is no part of 127.0.0.0/8 or has fewer than 256 addresses.
    pub fn loopback_range(&self) -> Result<Ipv4Net> {
        let text = &self.process.address_range;
        let range = text.parse().ok().filter(|range: &Ipv4Net| range.addr().is_loopback());
        range.filter(|range| (8..=24).contains(&range.prefix_len())).ok_or_else(|| {
            Error::BadRequest(format!(
                "process.address_range is {text:?}: it must be a part of 127.0.0.0/8, at most /24."
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<Config> {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("trove.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(Some(&file))
    }

    #[test]
    fn a_password_is_read_and_never_printed() {
        let config = with(
            "[identity]\nmode = \"keystone\"\n[keystone]\nauth_url = \"http://k:5000/\"\nusername = \"trove\"\npassword = \"sesame\"",
        );
        let config = config.unwrap();
        assert_eq!(config.keystone.v3_url(), "http://k:5000/v3");
        assert!(config.keystone.password.is_some());
        let shown = crate::config::documented::show(&config).unwrap();
        assert!(!shown.contains("sesame") && !format!("{config:?}").contains("sesame"), "{shown}");
    }

    #[test]
    fn wrong_configurations_are_refused_by_a_sentence_that_names_the_option() {
        for (text, named) in [
            ("[api]\nlisten = \"0.0.0.0:8779\"", "api.listen"),
            ("[api]\ntls_key = \"/x\"", "api.tls_certificate"),
            ("[api]\nidle_timeout = \"0s\"", "api.idle_timeout"),
            ("[api]\nmax_connections = 0", "api.max_connections"),
            ("[api]\ntrusted_proxies = [\"proxy\"]", "trusted_proxies"),
            ("[api]\nlisten = 5", "listen"),
            ("[api]\nlissten = \"127.0.0.1:1\"", "lissten"),
            ("[agents]\nheartbeat_expiry = \"1s\"", "heartbeat_expiry"),
            ("[agents]\nprobe_interval = \"0s\"", "probe_interval"),
            ("[process]\naddress_range = \"10.0.0.0/8\"", "address_range"),
            ("[process]\naddress_range = \"127.0.0.0/7\"", "address_range"),
            ("[process]\naddress_range = \"127.0.0.0/25\"", "address_range"),
            ("[process]\naddress_range = \"127.0.0.1\"", "address_range"),
            ("[process]\naddress_range = \"::1/24\"", "address_range"),
            ("[docker]\naddress_range = \"10.213.0.0/24\"", "docker.address_range"),
            ("[docker]\naddress_range = \"10.213.7.0/16\"", "docker.address_range"),
            ("[docker]\naddress_range = \"192.0.2.0/20\"", "docker.address_range"),
            ("flavors = []", "flavors"),
            ("[store]\nurl = \"postgres://a:secret@h/d\"", "store.password_file"),
            ("[operations]\nlease = \"0s\"", "operations.lease"),
            ("[backups]\nrecipients = [\"age1nobody\"]", "backups.recipients: \"age1nobody\""),
            ("[backups]\nsegment_mib = 0", "backups.segment_mib"),
            ("[backups]\nsegment_mib = 25", "backups.segment_mib"),
            ("[backups]\ngrant_lifetime = \"0s\"", "backups.grant_lifetime"),
            ("[backups]\ngrant_lifetime = \"2h\"", "backups.grant_lifetime"),
            ("[backups]\nlog_interval = \"0s\"", "backups.log_interval"),
            ("[backups]\nlog_idle_interval = \"5s\"", "backups.log_idle_interval"),
            ("[backups]\nleast_schedule_interval = \"0s\"", "backups.least_schedule_interval"),
            ("[backups]\nscheduled_at_once = 0", "backups.scheduled_at_once"),
            ("[backups]\nstorage = \"tape\"", "storage"),
            ("[backups]\nstorage = \"s3\"", "s3.endpoint"),
            ("[backups]\nstorage = \"s3\"\ndirectory = \"/srv\"", "backups.directory"),
            ("[backups]\nstorage = \"s3\"\n[s3]\nendpoint = \"https://user@s3\"", "s3.endpoint"),
            ("[backups]\nstorage = \"s3\"\n[s3]\nendpoint = \"https://s3\"", "s3.bucket"),
            (
                "[backups]\nstorage = \"s3\"\n[s3]\nendpoint = \"https://s3\"\nbucket = \"b\"\naccess_key = \"a\"",
                "TROVE_S3__SECRET_KEY",
            ),
            ("[backups]\nstorage = \"swift\"", "swift.storage_url"),
            ("[backups]\nstorage = \"swift\"\n[swift]\nstorage_url = \"https://s/v1/A\"", "swift.auth_url"),
            ("[identity]\nmode = \"both\"", "mode"),
            ("[identity]\nmode = \"keystone\"", "keystone.auth_url"),
            ("[identity]\nmode = \"keystone\"\n[keystone]\nauth_url = \"http://k\"", "keystone.username"),
            (
                "[identity]\nmode = \"keystone\"\n[keystone]\nauth_url = \"http://k\"\nusername = \"trove\"",
                "keystone.password_file",
            ),
        ] {
            let error = with(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        assert!(with("[api]\nlisten = \"0.0.0.0:8779\"\ntls_by_proxy = true").is_ok());
        assert!(Config::load(Some(Path::new("/nonexistent/trove.toml"))).is_err());
    }
}
