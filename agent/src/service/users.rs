//! Read calls about accounts.

use tonic::{Request, Response, Status};
use trove_proto::v1;
use trove_proto::v1::users_server::Users;
use trove_strategy::Grantee;

use super::{Connection, answered};
use crate::status::not_announced;

fn wire(user: trove_strategy::User) -> v1::User {
    let Grantee { name, host } = user.id;
    v1::User { account: Some(v1::Account { name, host }), databases: user.databases }
}

#[tonic::async_trait]
impl Users for Connection {
    async fn list_users(
        &self,
        _request: Request<v1::ListUsersRequest>,
    ) -> Result<Response<v1::ListUsersReply>, Status> {
        self.called.notify_one();
        let users = self.services.datastore.users().ok_or_else(|| not_announced("users"))?;
        let list = answered(users.list(&self.services.site)).await?;
        Ok(Response::new(v1::ListUsersReply { users: list.into_iter().map(wire).collect() }))
    }

    async fn get_user(&self, request: Request<v1::GetUserRequest>) -> Result<Response<v1::GetUserReply>, Status> {
        self.called.notify_one();
        let users = self.services.datastore.users().ok_or_else(|| not_announced("users"))?;
        let missing = || Status::invalid_argument("get a user: the account is missing");
        let v1::Account { name, host } = request.into_inner().account.ok_or_else(missing)?;
        let found = answered(users.get(&self.services.site, &Grantee { name, host })).await?;
        let user = found.ok_or_else(|| Status::not_found("there is no such account"))?;
        Ok(Response::new(v1::GetUserReply { user: Some(wire(user)) }))
    }

    async fn get_root(&self, _request: Request<v1::GetRootRequest>) -> Result<Response<v1::GetRootReply>, Status> {
        self.called.notify_one();
        let root = self.services.datastore.root().ok_or_else(|| not_announced("root"))?;
        let enabled = answered(root.is_enabled(&self.services.site)).await?;
        Ok(Response::new(v1::GetRootReply { enabled }))
    }
}
