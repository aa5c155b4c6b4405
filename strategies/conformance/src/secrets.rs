//! What lies about: nothing that a tenant or another account of the machine could use.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use trove_strategy::{Settings, StartMode};

use crate::access::MARK;
use crate::bench::{Bench, Running};

/// A shorter text may occur by accident.
const SECRET_BYTES: usize = 12;

/// Every file below a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { found.extend(files(&entry.path())?) } else { found.push(entry.path()) }
    }
    Ok(found)
}

/// No password in arguments, the environment, the configuration or the log; no file that others can read.
pub(crate) fn keeps_secrets(bench: &Bench<'_>, running: &Running) -> Result<()> {
    let site = &bench.site;
    let mut secrets = vec![MARK.to_owned()];
    for file in files(&site.secrets)? {
        let facts = fs::metadata(&file)?;
        ensure!(facts.mode() & 0o777 == 0o600, "{} has the mode {:o}", file.display(), facts.mode() & 0o777);
        ensure!(facts.uid() == nix::unistd::geteuid().as_raw(), "{} is not the agent's", file.display());
        let text = String::from_utf8_lossy(&fs::read(&file)?).trim().to_owned();
        secrets.extend(Some(text).filter(|text| text.len() >= SECRET_BYTES));
    }
    let shows = |text: &str| secrets.iter().any(|secret| text.contains(secret.as_str()));
    for mode in [StartMode::Normal, StartMode::Private] {
        let spec = bench.datastore.engine().start_spec(site, &Settings::default(), mode);
        ensure!(!shows(&format!("{spec:?}")), "start_spec holds a secret");
    }
    for what in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{}/{what}", running.pid())).context("look at the server's process")?;
        ensure!(!shows(&String::from_utf8_lossy(&text)), "the server's {what} holds a secret");
    }
    ensure!(!shows(&bench.log()), "the server's log holds a secret");
    for file in files(&site.config)? {
        let facts = fs::metadata(&file)?;
        ensure!(facts.mode() & 0o007 == 0, "{} has the mode {:o}", file.display(), facts.mode() & 0o777);
        ensure!(facts.uid() == nix::unistd::geteuid().as_raw(), "{} is not the agent's", file.display());
        ensure!(!shows(&String::from_utf8_lossy(&fs::read(&file)?)), "{} holds a secret", file.display());
    }
    for directory in [&site.run, &site.secrets].into_iter().chain(site.data.exists().then_some(&site.data)) {
        let mode = fs::metadata(directory)?.permissions().mode();
        ensure!(mode & 0o077 == 0, "{} has the mode {:o}", directory.display(), mode & 0o777);
    }
    Ok(())
}
