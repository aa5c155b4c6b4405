//! An order: everything about it that can be checked is checked before anything is written.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use secrecy::SecretString;
use trove_strategy::{Capability, Manifest};

use super::accounts::{check_databases, check_users, unsupported};
use super::datastores::Wanted;
use super::instances::{Accepted, NewInstance};
use super::names::shown;
use super::submit::origin;
use super::{App, names, passwords, restore};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::ids::InstanceId;
use crate::model::backups::Backup;
use crate::model::configurations::AttachedConfiguration;
use crate::model::{Access, Datastore, Flavor, Instance, Nic, Version};
use crate::operations::restore_instance::Replay;
use crate::operations::{NewOperation, Sealed, create_instance, restore_instance};
use crate::store::instances::NewRow;
use crate::store::quota::Amounts;

/// Each is a rule for each of the instance's ports.
const MOST_CIDRS: usize = 50;

/// A checked order, with the rows it refers to.
struct Checked {
    flavor: Flavor,
    volume_gib: u64,
    datastore: Datastore,
    version: Version,
    manifest: Arc<Manifest>,
    configuration: Option<AttachedConfiguration>,
    backup: Option<Backup>,
    replay: Option<Replay>,
}

impl App {
    /// Orders an instance. The second of the three is the password of root when the configuration enables it at once.
    ///
    /// # Errors
    /// 400, 403, 404, 409, 413, 422, 501 as the reference says: flavor, volume, datastore, names, quota, backup.
    pub async fn create_instance(
        &self,
        caller: &Caller,
        request_id: &str,
        mut order: NewInstance,
    ) -> Result<(Instance, Option<SecretString>, Accepted)> {
        let checked = self.check_order(caller, &mut order).await?;
        let root = if order.may_have_root { self.root_at_once(&checked.manifest)? } else { None };
        let id = InstanceId::random();
        let row = self.row(caller, id, &order, &checked);
        let operation = self.operation(caller, request_id, id, order, (root.as_ref(), &checked))?;
        let amounts = Amounts::instance(checked.flavor.ram_mib, checked.volume_gib);
        let mut tx = self.store.begin().await?;
        self.store.take_quota(&mut tx, &caller.project, amounts, |resource| self.default_limit(resource)).await?;
        self.check_ordered(&mut tx, row.configuration.as_ref()).await?;
        self.check_still_complete(&mut tx, checked.backup.as_ref()).await?;
        let created = self.store.insert_instance(&mut tx, &row).await?;
        let accepted = self.submit(tx, operation).await?;
        let instance = row.instance(&checked.datastore, checked.version, created);
        Ok((self.with_expiry(instance), root, accepted))
    }

    async fn check_order(&self, caller: &Caller, order: &mut NewInstance) -> Result<Checked> {
        names::check_text("name", &order.name)?;
        let wanted = &order.requirements;
        for (field, text) in [
            ("availability_zone", &wanted.availability_zone),
            ("volume.type", &wanted.volume_type),
            ("region_name", &order.region),
        ] {
            if let Some(text) = text {
                names::check_text(field, text)?;
            }
        }
        if let Some(region) = order.region.as_ref().filter(|region| **region != self.config.region) {
            let (region, own) = (shown(region), &self.config.region);
            return Err(Error::BadRequest(format!("region_name {region} is not the region of this service, {own}.")));
        }
        check_nics(&wanted.nics)?;
        check_access(wanted.access.as_ref())?;
        let flavor = self.get_flavor(&order.flavor).cloned();
        // Upstream's status for a flavor that an order names.
        let flavor =
            flavor.map_err(|_| Error::BadRequest(format!("Flavor {} cannot be found.", shown(&order.flavor))))?;
        let (mut chain, replay) = match (&order.backup, &order.moment) {
            (Some(wanted), _) => (self.ordered_backup(caller, wanted).await?, None),
            (None, Some(moment)) => {
                let (backup, replay) = self.ordered_moment(caller, moment).await?;
                (vec![backup], Some(replay))
            }
            (None, None) => (Vec::new(), None),
        };
        let data_bytes = restore_instance::data_bytes(&chain) + replay.as_ref().map_or(0, |replay| replay.bytes);
        let backup = chain.pop();
        let wanted = Wanted {
            datastore: order.datastore.as_deref(),
            version: order.version.as_deref(),
            number: order.version_number.as_deref(),
        };
        let source = backup.as_ref().map(restore::source_ids);
        let wanted =
            backup.as_ref().zip(source.as_ref()).map_or(wanted, |(b, ids)| restore::with_source(wanted, b, ids));
        let (datastore, version) = self.resolve_version(&wanted).await?;
        let manifest = self.manifest(&version).await?;
        let volume_gib = self.check_volume(order.volume_gib, &manifest)?;
        if let Some(backup) = &backup {
            restore::check_restorable(backup, data_bytes, &datastore, &manifest, volume_gib)?;
            restore_instance::check_memory(backup, &manifest, &flavor)?;
        }
        self.compute.check_order(&order.requirements).map_err(Error::Unprocessable)?;
        check_accounts(order, &datastore, &manifest)?;
        self.check_open(&manifest)?;
        let configuration = match &order.configuration {
            Some(wanted) => Some(self.ordered_configuration(caller, wanted, &version).await?),
            None => None,
        };
        Ok(Checked { flavor, volume_gib, datastore, version, manifest, configuration, backup, replay })
    }

    /// A datastore without accounts lets in whoever reaches its port: the operator says by name where that may be.
    fn check_open(&self, manifest: &Manifest) -> Result<()> {
        let datastore = &manifest.identity.name;
        if !manifest.is_open() || self.config.datastores.allow_open.contains(datastore) {
            return Ok(());
        }
        Err(Error::Forbidden(format!(
            "Datastore {datastore} has no accounts: whoever reaches its port is in, and datastores.allow_open does not \
             name it."
        )))
    }

    /// The size to be stored; 0 without a volume.
    fn check_volume(&self, volume_gib: Option<u64>, manifest: &Manifest) -> Result<u64> {
        match volume_gib {
            None if !manifest.identity.volume => Ok(0),
            None => Err(Error::BadRequest("Volume size was not specified.".to_owned())),
            Some(_) if !manifest.identity.volume => {
                let datastore = &manifest.identity.name;
                Err(Error::NotImplemented(format!("Datastore {datastore} does not support volumes.")))
            }
            Some(0) => Err(Error::BadRequest("Volume size must be at least 1 GB.".to_owned())),
            Some(size) => self.check_volume_limit(size).map(|()| size),
        }
    }

    /// The greatest volume that is accepted, in GiB, is the configuration's.
    pub(super) fn check_volume_limit(&self, size: u64) -> Result<()> {
        let max = self.config.max_accepted_volume_size;
        if size <= max {
            return Ok(());
        }
        let message = format!("Volume 'size' cannot exceed maximum of {max} GB, {size} cannot be accepted.");
        Err(Error::OverLimit { message, retry_after_s: None })
    }

    /// The password with which root is enabled from the start, where the configuration says so.
    fn root_at_once(&self, manifest: &Manifest) -> Result<Option<SecretString>> {
        if !self.config.root_on_create || !manifest.has(Capability::Root) {
            return Ok(None);
        }
        self.check_root_allowed()?;
        passwords::generate().map(Some)
    }

    fn operation(
        &self,
        caller: &Caller,
        request_id: &str,
        id: InstanceId,
        order: NewInstance,
        (root, checked): (Option<&SecretString>, &Checked),
    ) -> Result<NewOperation> {
        let store = &self.store;
        let params = create_instance::Params {
            databases: order.databases.into_iter().map(Into::into).collect(),
            users: order.users.into_iter().map(|user| user.sealed(store)).collect::<Result<_>>()?,
            root: root.map(|password| Sealed::new(&store.seal, password)).transpose()?,
        };
        let origin = origin(caller, request_id, id, caller.project.clone());
        let Some(backup) = &checked.backup else { return create_instance::new(origin, params) };
        if backup.source.root_by.is_some() {
            // The data bring the account along.
            self.check_root_allowed()?;
        }
        let root_by = backup.source.root_by.as_ref().map(|_| caller.user_id.clone());
        let replay = checked.replay.clone();
        restore_instance::new(origin, restore_instance::Params { backup: backup.id, first: params, root_by, replay })
    }

    fn row(&self, caller: &Caller, id: InstanceId, order: &NewInstance, checked: &Checked) -> NewRow {
        NewRow {
            id,
            project: caller.project.clone(),
            name: order.name.clone(),
            purpose: None,
            flavor: checked.flavor.clone(),
            volume_gib: checked.volume_gib,
            version: checked.version.id,
            region: order.region.clone().unwrap_or_else(|| self.config.region.clone()),
            port: checked.manifest.identity.port,
            requirements: order.requirements.clone(),
            configuration: checked.configuration.clone(),
            deletion_protection: order.deletion_protection,
        }
    }
}

fn check_nics(nics: &[Nic]) -> Result<()> {
    let refuse = |message: &str| Err(Error::BadRequest(message.to_owned()));
    let nic = match nics {
        [] => return Ok(()),
        [nic] => nic,
        _ => return refuse("Only one network interface can be specified in nics."),
    };
    if nic.network_id.is_none() && nic.subnet_id.is_none() {
        return refuse("nics[0] needs a network_id or a subnet_id.");
    }
    for (field, id) in [("network_id", &nic.network_id), ("subnet_id", &nic.subnet_id)] {
        if let Some(id) = id
            && uuid::Uuid::parse_str(id).is_err()
        {
            return refuse(&format!("nics[0].{field} {} is not a UUID.", shown(id)));
        }
    }
    let Some(address) = &nic.ip_address else { return Ok(()) };
    if nic.subnet_id.is_none() {
        return refuse("nics[0].ip_address needs a subnet_id.");
    }
    if address.parse::<Ipv4Addr>().is_err() {
        return refuse(&format!("nics[0].ip_address {} is not an IPv4 address.", shown(address)));
    }
    Ok(())
}

fn check_access(access: Option<&Access>) -> Result<()> {
    let Some(cidrs) = access.and_then(|access| access.allowed_cidrs.as_ref()) else { return Ok(()) };
    if cidrs.len() > MOST_CIDRS {
        let given = cidrs.len();
        return Err(Error::BadRequest(format!("access.allowed_cidrs has {given} CIDRs; {MOST_CIDRS} are allowed.")));
    }
    if let Some(bad) = cidrs.iter().find(|cidr| !is_cidr(cidr)) {
        return Err(Error::BadRequest(format!("access.allowed_cidrs {} is not an IPv4 CIDR.", shown(bad))));
    }
    names::check_unique("access.allowed_cidrs", cidrs.iter().map(String::as_str))
}

/// `a.b.c.d` with an optional `/0` to `/32`, written in the only way: other programs read `/08` otherwise.
fn is_cidr(text: &str) -> bool {
    let is_network = text.parse::<Ipv4Net>().is_ok_and(|network| network.to_string() == text);
    is_network || text.parse::<Ipv4Addr>().is_ok_and(|address| address.to_string() == text)
}

/// First databases and accounts, checked as far as no engine is needed.
fn check_accounts(order: &mut NewInstance, datastore: &Datastore, manifest: &Manifest) -> Result<()> {
    for (capability, given) in
        [(Capability::Databases, !order.databases.is_empty()), (Capability::Users, !order.users.is_empty())]
    {
        if given && !manifest.has(capability) {
            return Err(unsupported(&datastore.name, capability));
        }
    }
    check_databases(manifest, &mut order.databases)?;
    check_users(manifest, &order.users)?;
    let made: HashSet<&str> = order.databases.iter().map(|database| database.name.as_str()).collect();
    for user in &order.users {
        if let Some(missing) = user.databases.iter().find(|name| !made.contains(name.as_str())) {
            let (missing, user) = (shown(missing), shown(&user.name));
            return Err(Error::BadRequest(format!("Database {missing} of user {user} is not among the databases.")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
