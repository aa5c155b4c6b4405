//! Images in the Docker Engine. They are imported when a host first needs them, under a tag with the key of the directory of hosts and
//! the sum of the file, and removed when neither a version nor a host has them any more.

#![allow(clippy::disallowed_methods, reason = "files of images, which an administrator registered")]

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bollard::errors::Error as DockerError;
use bollard::query_parameters::{CreateImageOptions, ListImagesOptions, RemoveImageOptions, TagImageOptions};
use bollard::{Docker, body_try_stream};
use futures::{StreamExt as _, TryStreamExt as _};
use ring::digest::{Context, SHA256};
use time::OffsetDateTime;
use tokio_util::io::ReaderStream;

use super::engine::{LIMIT_S, failed, if_there};
use crate::compute::ComputeError;
use crate::model::{Image, ImageFile};

/// The format of files of which the engine makes an image: a root file system, tar.
const FORMAT: &str = "docker";
/// How the names of all images of this driver begin; the name of the image follows.
const REPOSITORY: &str = "trove-rs/";
/// How the tag ends while it is not known whether the right file was imported.
const PASSING: &str = "-importing";
/// Digits of the sum in the tag.
const DIGITS: usize = 12;
/// Size of the pieces in which a file is read.
const PIECE: usize = 256 << 10;

pub(super) struct Images {
    docker: Docker,
    /// Of the directory of hosts.
    key: String,
    /// One import at a time, since several hosts may want the same image.
    turn: tokio::sync::Mutex<()>,
}

/// The file that the engine imports.
pub(super) fn file(image: &Image) -> Result<&ImageFile, ComputeError> {
    image.files.iter().find(|file| file.format == FORMAT && file.sha256.len() > DIGITS).ok_or_else(|| {
        let name = &image.name;
        ComputeError::Fatal(format!(
            "the image {name} has no file of the format {FORMAT}: make one, and register it again"
        ))
    })
}

impl Images {
    pub(super) fn new(docker: Docker, key: String) -> Self {
        Self { docker, key, turn: tokio::sync::Mutex::default() }
    }

    fn tag(&self, file: &ImageFile) -> String {
        format!("{}-{}", self.key, &file.sha256[..DIGITS])
    }

    /// Imports the image unless it is there. Returns its name in the engine.
    pub(super) async fn ensure(&self, image: &Image) -> Result<String, ComputeError> {
        let file = file(image)?;
        let (repository, tag) = (format!("{REPOSITORY}{}", image.name), self.tag(file));
        let name = format!("{repository}:{tag}");
        if self.is_there(&name).await? {
            return Ok(name);
        }
        let _turn = self.turn.lock().await;
        if self.is_there(&name).await? {
            return Ok(name);
        }
        tracing::info!("the image {name} is imported");
        // Under another tag, since what has been imported is only known to be right at the end.
        let passing = format!("{tag}{PASSING}");
        let found = self.import(file, &repository, &passing).await?;
        let passing = format!("{repository}:{passing}");
        if found == file.sha256 {
            let options = TagImageOptions { repo: Some(repository), tag: Some(tag) };
            self.docker.tag_image(&passing, Some(options)).await.map_err(failed("name an image"))?;
        }
        let removed = self.docker.remove_image(&passing, None::<RemoveImageOptions>, None).await;
        if_there(removed).map_err(failed("remove a name of an image"))?;
        if found == file.sha256 {
            return Ok(name);
        }
        Err(ComputeError::Fatal(format!(
            "{} has changed since it was registered: its SHA-256 is {found}",
            file.path.display()
        )))
    }

    /// Removes the images that it has imported, but these and those that containers have. What is kept is asked only after it is
    /// known what is there, since whoever imports an image has a version or a host with it before. While one is imported
    /// nothing is removed, until the next call.
    pub(super) async fn retain(
        &self,
        kept: impl Future<Output = Result<Vec<Image>, ComputeError>>,
    ) -> Result<(), ComputeError> {
        let Ok(_turn) = self.turn.try_lock() else { return Ok(()) };
        let filters = HashMap::from([("reference".to_owned(), vec![format!("{REPOSITORY}*")])]);
        let options = ListImagesOptions { filters: Some(filters), ..ListImagesOptions::default() };
        let all = self.docker.list_images(Some(options)).await.map_err(failed("list the images"))?;
        let name = |image: &Image| Some(format!("{REPOSITORY}{}:{}", image.name, self.tag(file(image).ok()?)));
        let kept: BTreeSet<String> = kept.await?.iter().filter_map(name).collect();
        let own = format!(":{}-", self.key);
        // Another controller may be about to give it its name.
        let since = OffsetDateTime::now_utc().unix_timestamp() - LIMIT_S.cast_signed();
        let names = all.into_iter().flat_map(|image| {
            let is_young = image.created > since;
            image.repo_tags.into_iter().filter(move |name| !(is_young && name.ends_with(PASSING)))
        });
        // An image has names that others gave it, too.
        let is_own = |name: &String| name.starts_with(REPOSITORY) && name.contains(&own);
        for name in names.filter(|name| is_own(name) && !kept.contains(name)) {
            match if_there(self.docker.remove_image(&name, None::<RemoveImageOptions>, None).await) {
                Ok(_) => tracing::info!("the image {name} was removed: no version and no host has it"),
                // A container has it.
                Err(DockerError::DockerResponseServerError { status_code: 409, .. }) => {}
                Err(error) => return Err(failed("remove an image")(error)),
            }
        }
        Ok(())
    }

    async fn is_there(&self, name: &str) -> Result<bool, ComputeError> {
        let found = if_there(self.docker.inspect_image(name).await);
        Ok(found.map_err(failed("look for an image"))?.is_some())
    }

    /// Imports a file, and returns the sum of what was read.
    async fn import(&self, file: &ImageFile, repository: &str, tag: &str) -> Result<String, ComputeError> {
        let opened = tokio::fs::File::open(&file.path).await;
        let opened =
            opened.map_err(|error| ComputeError::Fatal(format!("open the image {}: {error}", file.path.display())))?;
        let sum = Arc::new(Mutex::new(Context::new(&SHA256)));
        let hasher = sum.clone();
        let pieces = ReaderStream::with_capacity(opened, PIECE)
            .inspect_ok(move |piece| hasher.lock().unwrap_or_else(PoisonError::into_inner).update(piece));
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(repository.to_owned()),
            tag: Some(tag.to_owned()),
            ..CreateImageOptions::default()
        };
        let mut said = Box::pin(self.docker.create_image(Some(options), Some(body_try_stream(pieces)), None));
        while let Some(word) = said.next().await {
            word.map_err(failed("import an image"))?;
        }
        let sum = sum.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(hex::encode(sum.finish()))
    }
}
