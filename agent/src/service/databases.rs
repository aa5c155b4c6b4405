//! Read calls about databases.

use tonic::{Request, Response, Status};
use trove_proto::v1;
use trove_proto::v1::databases_server::Databases;

use super::{Connection, answered};
use crate::status::not_announced;

#[tonic::async_trait]
impl Databases for Connection {
    async fn list_databases(
        &self,
        _request: Request<v1::ListDatabasesRequest>,
    ) -> Result<Response<v1::ListDatabasesReply>, Status> {
        self.called.notify_one();
        let databases = self.services.datastore.databases().ok_or_else(|| not_announced("databases"))?;
        let list = answered(databases.list(&self.services.site)).await?;
        let wire = |database: trove_strategy::Database| {
            let trove_strategy::Database { name, character_set, collation } = database;
            v1::Database { name, character_set, collation }
        };
        Ok(Response::new(v1::ListDatabasesReply { databases: list.into_iter().map(wire).collect() }))
    }
}
