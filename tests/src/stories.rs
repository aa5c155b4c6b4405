//! The engines of a story that is told of several of them.

/// Makes a test of each engine: `each_engine!(something_holds_in: story)` makes `something_holds_in::postgresql` and so on,
/// each of which calls `story` with its engine, where that is installed. A list of datastores after `of` limits it to these.
#[macro_export]
macro_rules! each_engine {
    ($name:ident: $story:ident) => {
        $crate::each_engine!($name: $story of postgresql, redis, mariadb, mongodb);
    };
    ($name:ident: $story:ident of $($engine:ident),+) => {
        mod $name {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $engine() -> anyhow::Result<()> {
                match $crate::Engine::installed(stringify!($engine))? {
                    Some(engine) => super::$story(engine).await,
                    None => Ok(()),
                }
            })+
        }
    };
}
