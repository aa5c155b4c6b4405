//! Registers images as datastore versions, from the description (JSON) that was made with the image. It carries the
//! manifest, so that requests are checked before any agent exists.

#![allow(clippy::disallowed_methods, reason = "files that the operator names")]

use std::fs::File;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::Deserialize;
use serde_json::Value;
use trove_strategy::Manifest;
use uuid::Uuid;

use super::NewVersion;
use crate::error::{Error, Result};
use crate::ids::VersionId;
use crate::model::{Image, ImageFile, Source};
use crate::store::Store;
use crate::store::datastores::Registration;

/// The format of descriptions that this controller knows.
const FORMAT: u32 = 1;
/// Greatest size of a description. The manifest, which has all parameters of an engine, is most of it.
const LIMIT: u64 = 64 << 20;
/// Size of the pieces in which a file is read.
const PIECE: usize = 256 << 10;

/// The description of an image. What else it says is not needed here.
#[derive(Deserialize)]
struct Description {
    name: String,
    id: Uuid,
    datastore: String,
    version: String,
    files: Vec<DescribedFile>,
    manifest: Value,
}

#[derive(Deserialize)]
struct DescribedFile {
    format: String,
    /// Relative to the description's directory.
    path: PathBuf,
    size: u64,
    sha256: String,
}

/// Registers the image of a description. A second call updates the version. `name` is the version's name; by default the
/// engine's major version. The first version of a datastore becomes its default.
///
/// # Errors
/// 400 if the description or a file of the image is not as it should be, or another version has the name.
pub async fn register(store: &Store, file: &Path, name: Option<&str>) -> Result<VersionId> {
    let (image, manifest) = {
        let file = file.to_owned();
        let read = tokio::task::spawn_blocking(move || read(&file)).await;
        read.map_err(|error| Error::internal("read the image", error))??
    };
    let name = name.unwrap_or(&manifest.installation.major);
    super::check_name(store, &manifest, &Source::Image(image.id), name).await?;
    put(store, &image, &manifest, name, true, false).await
}

/// Registers another version of an image that was registered before, on request of an administrator.
///
/// # Errors
/// 400 if the image is not known or has another engine.
pub async fn register_known(store: &Store, order: &NewVersion) -> Result<VersionId> {
    let Some((image, manifest)) = store.get_image(order.image).await? else {
        return Err(Error::BadRequest(format!(
            "image: no image {} is known: `trove-controller datastore register IMAGE.json` makes it known.",
            order.image
        )));
    };
    let (datastore, number) = (&manifest.identity.name, &manifest.installation.version);
    if *datastore != order.datastore {
        return Err(Error::BadRequest(format!("datastore_manager: the engine of this image is {datastore}.")));
    }
    if order.number.as_ref().is_some_and(|wanted| wanted != number) {
        return Err(Error::BadRequest(format!("version: the engine of this image is of version {number}.")));
    }
    put(store, &image, &manifest, &order.name, order.active, order.default).await
}

async fn put(
    store: &Store,
    image: &Image,
    manifest: &Manifest,
    name: &str,
    active: bool,
    default: bool,
) -> Result<VersionId> {
    let registration =
        Registration { manifest, name, image: Some(image), agent_program: None, agent_print: "", active, default };
    let mut tx = store.begin().await?;
    let id = store.upsert_version(&mut tx, registration).await?;
    tx.commit().await.map_err(|error| Error::internal("register an image", error))?;
    Ok(id)
}

/// Reads a description, and checks its manifest and its files.
fn read(file: &Path) -> Result<(Image, Manifest)> {
    let wrong = |text: String| Error::BadRequest(format!("{}: {text}.", file.display()));
    let file = std::path::absolute(file).map_err(|error| wrong(error.to_string()))?;
    let mut text = String::new();
    File::open(&file)
        .and_then(|opened| opened.take(LIMIT).read_to_string(&mut text))
        .map_err(|error| wrong(error.to_string()))?;
    let described = parse(&text).map_err(wrong)?;
    let manifest = Manifest::from_json(&described.manifest.to_string()).map_err(|error| wrong(error.to_string()))?;
    let (datastore, version) = (&manifest.identity.name, &manifest.installation.version);
    if (datastore, version) != (&described.datastore, &described.version) {
        return Err(wrong(format!("the manifest is that of {datastore} {version}")));
    }
    if described.files.is_empty() {
        return Err(wrong("the image has no files".to_owned()));
    }
    let directory = file.parent().unwrap_or(Path::new("/"));
    let files = described.files.into_iter().map(|described| check(directory, described)).collect::<Result<_>>()?;
    Ok((Image { id: described.id, name: described.name, files }, manifest))
}

fn parse(text: &str) -> std::result::Result<Description, String> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    // The format first: what is new cannot be read otherwise.
    let Format { format } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if format != FORMAT {
        return Err(format!("format {format} is not known: this program knows {FORMAT}"));
    }
    let described: Description = serde_json::from_str(text).map_err(|error| error.to_string())?;
    // The name becomes part of a driver's names.
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let is_edge = |c: char| c.is_ascii_alphanumeric();
    if !described.name.chars().all(plain) || !described.name.starts_with(is_edge) || !described.name.ends_with(is_edge)
    {
        return Err("name: only lower-case letters, digits, dots, hyphens and underscores".to_owned());
    }
    Ok(described)
}

fn check(directory: &Path, described: DescribedFile) -> Result<ImageFile> {
    let DescribedFile { format, path, size, sha256 } = described;
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::BadRequest(format!("{} is not below the directory of the description.", path.display())));
    }
    let path = directory.join(path);
    let unread = |error: std::io::Error| Error::BadRequest(format!("{}: {error}.", path.display()));
    let mut file = File::open(&path).map_err(unread)?;
    let (mut hasher, mut found, mut piece) = (Context::new(&SHA256), 0, vec![0; PIECE]);
    loop {
        match file.read(&mut piece).map_err(unread)? {
            0 => break,
            read => {
                hasher.update(&piece[..read]);
                found += read as u64;
            }
        }
    }
    if found != size {
        return Err(Error::BadRequest(format!("{} has {found} bytes instead of {size}.", path.display())));
    }
    if hex::encode(hasher.finish()) != sha256 {
        return Err(Error::BadRequest(format!("{} has another SHA-256 than the description says.", path.display())));
    }
    Ok(ImageFile { format, path, size, sha256 })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sha2::{Digest as _, Sha256};
    use tempfile::TempDir;

    use super::*;
    use crate::testing::store::{manifest, open};

    struct Images(TempDir);

    impl Images {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("a.tar"), "the files").unwrap();
            Self(directory)
        }

        fn description() -> Value {
            let sha256 = hex::encode(Sha256::digest("the files"));
            json!({
                "format": 1, "name": "enginedb-15-bookworm", "datastore": "enginedb", "version": "15.18",
                "id": Uuid::new_v5(&Uuid::NAMESPACE_URL, sha256.as_bytes()), "suite": "bookworm",
                "files": [{"format": "docker", "path": "a.tar", "size": 9, "sha256": sha256}],
                "manifest": manifest(),
            })
        }

        fn write(&self, description: &Value) -> PathBuf {
            let file = self.0.path().join("a.json");
            std::fs::write(&file, description.to_string()).unwrap();
            file
        }
    }

    #[tokio::test]
    async fn an_image_is_a_version_however_often_it_is_registered() {
        let (images, directory) = (Images::new(), tempfile::tempdir().unwrap());
        let store = open(directory.path(), 1).await;
        let file = images.write(&Images::description());
        let id = register(&store, &file, None).await.unwrap();
        assert_eq!(register(&store, &file, Some("other")).await.unwrap(), id);
        let datastore = store.get_datastore("enginedb").await.unwrap().unwrap();
        let [version] = &datastore.versions[..] else { panic!("{datastore:?}") };
        assert_eq!((&*version.name, &*version.number, datastore.default_version), ("15", "15.18", Some(id)));
        let Source::Image(image) = version.source else { panic!("{version:?}") };
        let (known, _) = store.get_image(image).await.unwrap().unwrap();
        assert_eq!(known.files[0].path, images.0.path().join("a.tar"));
        assert!(store.registered().await.unwrap().is_empty(), "it is not installed on the machine");

        let mut rebuilt = Images::description();
        rebuilt["id"] = json!(Uuid::new_v4());
        let file = images.write(&rebuilt);
        let refused = register(&store, &file, None).await.unwrap_err().to_string();
        assert!(refused.contains("--name") && refused.contains(&id.to_string()), "{refused}");
        assert_ne!(register(&store, &file, Some("15-new")).await.unwrap(), id);
    }

    #[tokio::test]
    async fn a_known_image_is_registered_by_its_id() {
        let (images, directory) = (Images::new(), tempfile::tempdir().unwrap());
        let store = open(directory.path(), 1).await;
        let id = register(&store, &images.write(&Images::description()), None).await.unwrap();
        assert_eq!(store.list_images().await.unwrap().len(), 1);
        let mut tx = store.begin().await.unwrap();
        assert!(store.remove_version(&mut tx, id).await.unwrap());
        tx.commit().await.unwrap();
        assert!(store.list_images().await.unwrap().is_empty());
        let image = Images::description()["id"].as_str().unwrap().parse().unwrap();
        let order = NewVersion {
            datastore: "enginedb".to_owned(),
            name: "fifteen".to_owned(),
            number: Some("15.18".to_owned()),
            image,
            active: true,
            default: false,
        };
        register_known(&store, &order).await.unwrap();
        let versions = store.get_datastore("enginedb").await.unwrap().unwrap().versions;
        assert!(versions.len() == 1 && versions[0].name == "fifteen", "{versions:?}");
        for (wrong, named) in [
            (NewVersion { image: Uuid::new_v4(), ..order.clone() }, "image"),
            (NewVersion { datastore: "otherdb".to_owned(), ..order.clone() }, "datastore_manager"),
            (NewVersion { number: Some("16".to_owned()), ..order.clone() }, "version"),
        ] {
            let refused = register_known(&store, &wrong).await.unwrap_err().to_string();
            assert!(refused.starts_with(named), "{refused}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_an_image_is_said_and_nothing_is_registered() {
        let (images, directory) = (Images::new(), tempfile::tempdir().unwrap());
        let store = open(directory.path(), 1).await;
        for (field, value, said) in [
            ("format", json!(2), "format 2 is not known"),
            ("name", json!("Engine DB"), "name: only"),
            ("version", json!("15.19"), "manifest is that of enginedb 15.18"),
            ("datastore", json!("otherdb"), "manifest is that of enginedb"),
            ("manifest", json!({"interface": 99}), "version 99 of the strategy interface"),
            ("files", json!([]), "no files"),
            ("files", json!([{"format": "tar", "path": "b.tar", "size": 9, "sha256": ""}]), "b.tar: No such file"),
            ("files", json!([{"format": "tar", "path": "../a.tar", "size": 9, "sha256": ""}]), "is not below"),
            ("files", json!([{"format": "tar", "path": "a.tar", "size": 8, "sha256": ""}]), "9 bytes instead of 8"),
            ("files", json!([{"format": "tar", "path": "a.tar", "size": 9, "sha256": "00"}]), "another SHA-256"),
            ("id", json!("one"), "UUID"),
        ] {
            let mut description = Images::description();
            description[field] = value;
            let refused = register(&store, &images.write(&description), None).await.unwrap_err();
            assert!(matches!(refused, Error::BadRequest(_)) && refused.to_string().contains(said), "{refused}");
        }
        assert!(register(&store, Path::new("/nowhere.json"), None).await.is_err());
        assert!(store.list_datastores().await.unwrap().is_empty());
    }
}
