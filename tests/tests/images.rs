//! How guest images are kept and described, without baking one: `make test-images` does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Under which name a base is kept.
fn key(datastore: &str, environment: &[(&str, &str)]) -> Result<String> {
    let mut command = Command::new("tests/scripts/image-key.sh");
    command.args([datastore, "trixie"]).current_dir(root()).stdin(Stdio::null());
    // What the test was started with may be such a variable.
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).envs(environment.iter().copied());
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
fn what_elements_read_of_the_environment_makes_another_base() -> Result<()> {
    let plain = key("redis", &[])?;
    ensure!(plain.len() == 16 && plain == key("redis", &[("TROVE_IMAGE_CACHE", "/elsewhere"), ("DIB", "/venv")])?);
    for other in
        [("TROVE_SSH", "yes"), ("TROVE_APT_SOURCES", "deb a\ndeb b"), ("DIB_BOOTLOADER_DEFAULT_CMDLINE", "quiet")]
    {
        ensure!(key("redis", &[other])? != plain, "{other:?}");
    }
    ensure!(key("valkey", &[])? != plain);
    Ok(())
}

/// A directory of images, and what is put into it.
struct Images(tempfile::TempDir);

impl Images {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        for part in ["root/usr/bin", "root/var/lib/dpkg", "images"] {
            fs::create_dir_all(directory.path().join(part))?;
        }
        let manifest = json!({"installation": {"version": "7.0.15", "major": "7", "bindir": "/usr/bin"}});
        for (file, contents) in [
            ("root/usr/bin/trove-agent", "the agent".to_owned()),
            ("manifest", manifest.to_string()),
            (
                "root/var/lib/dpkg/status",
                "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n".to_owned(),
            ),
        ] {
            fs::write(directory.path().join(file), contents)?;
        }
        Ok(Self(directory))
    }

    /// Puts an image in, made of a base, and returns its description.
    fn put(&self, format: &str, base: &str, contents: &str) -> Result<Value> {
        let at = |name: &str| self.0.path().join(name);
        fs::write(at("image"), contents)?;
        let output = Command::new("python3")
            .arg(root().join("tests/scripts/image-describe.py"))
            .args(["--datastore", "redis", "--suite", "trixie", "--format", format, "--base", base, "--epoch", "0"])
            .args(["--image".as_ref(), at("image").as_os_str(), "--root".as_ref(), at("root").as_os_str()])
            .args(["--manifest".as_ref(), at("manifest").as_os_str(), "--images".as_ref(), at("images").as_os_str()])
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let description = fs::read_to_string(at("images/redis-7-trixie.json"))?;
        serde_json::from_str(&description).context("read the description")
    }
}

#[test]
fn an_id_stands_for_one_base_and_its_formats() -> Result<()> {
    let images = Images::new()?;
    let formats = |image: &Value| image["files"].as_array().map_or(0, Vec::len);
    let first = images.put("docker", "one", "as a tar")?;
    let both = images.put("qcow2", "one", "as a disk")?;
    ensure!(both["id"] == first["id"] && formats(&both) == 2, "{both}");
    let rebuilt = images.put("docker", "two", "as a tar, with a newer libc")?;
    ensure!(rebuilt["id"] != first["id"] && formats(&rebuilt) == 1, "{rebuilt}");
    Ok(())
}
