//! Sizes that can be ordered: of the local drivers, from configuration.

use super::App;
use crate::error::{Error, Result};
use crate::model::Flavor;

impl App {
    /// All of them, in the order of the configuration.
    pub fn list_flavors(&self) -> &[Flavor] {
        &self.config.flavors
    }

    /// By id.
    ///
    /// # Errors
    /// 404.
    pub fn get_flavor(&self, id: &str) -> Result<&Flavor> {
        self.config
            .flavors
            .iter()
            .find(|flavor| flavor.id == id)
            .ok_or_else(|| Error::NotFound(format!("Flavor {id} cannot be found.")))
    }
}
