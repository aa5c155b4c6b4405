//! Rows of the built-in identity: users and tokens.

use time::OffsetDateTime;

use super::{Store, from_micros, micros};
use crate::error::{Error, Result};
use crate::store::sql::{Query, Row, query};

/// A user and the one project in which it has roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// 32 hex digits.
    pub id: String,
    /// Unique.
    pub name: String,
    /// argon2id, PHC string.
    pub password_hash: String,
    /// 32 hex digits.
    pub project_id: String,
    pub project_name: String,
    /// Roles in the project.
    pub roles: Vec<String>,
}

/// An issued token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub user: User,
    /// Identifies it in logs.
    pub audit_id: String,
    /// Audit id of the first token, if this one was got with another token instead of a password.
    pub parent_audit_id: Option<String>,
    pub issued_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

const USER: &str = "u.id, u.name, u.password_hash, u.project_id, u.project_name, u.roles";

fn user(row: &Row) -> sqlx::Result<User> {
    let roles: String = row.try_get("roles")?;
    let roles = serde_json::from_str(&roles).map_err(|error| sqlx::Error::Decode(error.into()))?;
    Ok(User {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        password_hash: row.try_get("password_hash")?,
        project_id: row.try_get("project_id")?,
        project_name: row.try_get("project_name")?,
        roles,
    })
}

fn failed(attempt: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| Error::internal(attempt, error)
}

/// A statement that inserts a user. `known` is the conflict clause for a user of the same name.
fn insert(user: &User, known: &'static str) -> Result<Query> {
    let roles = serde_json::to_string(&user.roles).map_err(|error| Error::internal("write roles", error))?;
    let sql = sqlx::AssertSqlSafe(format!(
        "insert into identity_user (id, name, password_hash, project_id, project_name, roles) \
         values ($1, $2, $3, $4, $5, $6) on conflict (name) {known}"
    ));
    let query = query(sql).bind(&user.id).bind(&user.name).bind(&user.password_hash);
    Ok(query.bind(&user.project_id).bind(&user.project_name).bind(roles))
}

impl Store {
    /// All users, sorted by name.
    pub async fn list_users(&self) -> Result<Vec<User>> {
        let sql = sqlx::AssertSqlSafe(format!("select {USER} from identity_user u order by u.name"));
        let rows = query(sql).fetch_all(&self.read).await.map_err(failed("list users"))?;
        rows.iter().map(user).collect::<sqlx::Result<_>>().map_err(failed("list users"))
    }

    /// Inserts a user or updates the one of this name, whose id stays. A new password revokes its tokens.
    pub async fn put_user(&self, user: &User) -> Result<()> {
        let mut tx = self.begin().await?;
        query(
            "delete from identity_token where user_id = \
             (select id from identity_user where name = $1 and password_hash <> $2)",
        )
        .bind(&user.name)
        .bind(&user.password_hash)
        .execute(&mut *tx)
        .await
        .map_err(failed("revoke the tokens of a user"))?;
        let known = "do update set password_hash = excluded.password_hash, project_id = excluded.project_id, \
                     project_name = excluded.project_name, roles = excluded.roles";
        insert(user, known)?.execute(&mut *tx).await.map_err(failed("write a user"))?;
        tx.commit().await.map_err(failed("write a user"))
    }

    /// Inserts all of the users, or none if one of the names exists. Returns whether they were inserted.
    pub async fn insert_users(&self, users: &[User]) -> Result<bool> {
        let mut tx = self.begin().await?;
        for user in users {
            let done = insert(user, "do nothing")?.execute(&mut *tx).await.map_err(failed("write a user"))?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
        }
        tx.commit().await.map_err(failed("commit users"))?;
        Ok(true)
    }

    /// Deletes a user and its tokens.
    pub async fn delete_user(&self, id: &str) -> Result<()> {
        let done = query("delete from identity_user where id = $1").bind(id).execute(&self.write).await;
        done.map_err(failed("remove a user"))?;
        Ok(())
    }

    /// Stores a token by its hash, and deletes expired tokens.
    pub async fn insert_token(&self, hash: &str, token: &Token) -> Result<()> {
        let mut tx = self.begin().await?;
        query("delete from identity_token where expires_at < $1")
            .bind(micros(token.issued_at))
            .execute(&mut *tx)
            .await
            .map_err(failed("remove old tokens"))?;
        query(
            "insert into identity_token (hash, user_id, audit_id, parent_audit_id, issued_at, expires_at) \
             values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(hash)
        .bind(&token.user.id)
        .bind(&token.audit_id)
        .bind(token.parent_audit_id.clone())
        .bind(micros(token.issued_at))
        .bind(micros(token.expires_at))
        .execute(&mut *tx)
        .await
        .map_err(failed("store a token"))?;
        tx.commit().await.map_err(failed("store a token"))
    }

    /// The token with a hash, unless it has expired.
    pub async fn get_token(&self, hash: &str, now: OffsetDateTime) -> Result<Option<Token>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "select {USER}, t.audit_id, t.parent_audit_id, t.issued_at, t.expires_at from identity_token t join identity_user u \
             on u.id = t.user_id where t.hash = $1 and t.expires_at > $2"
        ));
        let row = query(sql).bind(hash).bind(micros(now)).fetch_optional(&self.read).await;
        let Some(row) = row.map_err(failed("read a token"))? else { return Ok(None) };
        let token = || -> sqlx::Result<Token> {
            Ok(Token {
                user: user(&row)?,
                audit_id: row.try_get("audit_id")?,
                parent_audit_id: row.try_get("parent_audit_id")?,
                issued_at: from_micros(row.try_get("issued_at")?),
                expires_at: from_micros(row.try_get("expires_at")?),
            })
        };
        token().map(Some).map_err(failed("read a token"))
    }

    pub async fn delete_token(&self, hash: &str) -> Result<()> {
        let done = query("delete from identity_token where hash = $1").bind(hash).execute(&self.write).await;
        done.map_err(failed("revoke a token"))?;
        Ok(())
    }
}
