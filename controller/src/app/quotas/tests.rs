use super::*;
use crate::testing::app::{admin, caller, code, order, world};

fn of(quotas: &[Quota], resource: Resource) -> (i64, i64) {
    let quota = quotas.iter().find(|quota| quota.resource == resource).unwrap();
    (quota.in_use, quota.limit)
}

#[tokio::test]
async fn a_projects_own_limits_come_before_the_configured_ones() {
    let world = world().await;
    let (app, demo) = (&world.app, caller("demo"));
    let project = demo.project.clone();
    let quotas = app.quotas(&demo, &project).await.unwrap();
    assert_eq!(
        quotas.iter().map(|quota| quota.resource.tag()).collect::<Vec<_>>(),
        ["instances", "ram", "volumes", "backups", "configurations"]
    );
    assert_eq!(of(&quotas, Resource::Instances), (0, app.config.quota.max_instances_per_tenant));
    app.set_quotas(&project, &[(Resource::Instances, 1), (Resource::Ram, 5000)]).await.unwrap();
    app.create_instance(&demo, "r", order()).await.unwrap();
    let before = world.rows().await;
    let refused = app.create_instance(&demo, "r", order()).await.unwrap_err();
    assert_eq!(refused.to_string(), "Quota exceeded for resources: ['instances'].");
    assert_eq!(world.rows().await, before);
    let quotas = app.quotas(&admin(), &project).await.unwrap();
    assert_eq!(of(&quotas, Resource::Instances), (1, 1));
    assert_eq!(of(&quotas, Resource::Ram).1, 5000);
    app.set_quotas(&project, &[(Resource::Instances, -1)]).await.unwrap();
    app.create_instance(&demo, "r", order()).await.unwrap();
    assert_eq!(of(&app.quotas(&demo, &project).await.unwrap(), Resource::Instances), (2, -1));
}

#[tokio::test]
async fn other_projects_quotas_are_for_administrators_and_wrong_ones_change_nothing() {
    let world = world().await;
    let project = ProjectId("demo".to_owned());
    assert_eq!(code(&world.app.quotas(&caller("other"), &project).await), 403);
    let wrong = world.app.set_quotas(&project, &[(Resource::Ram, 7), (Resource::Backups, -2)]).await;
    assert_eq!(wrong.unwrap_err().to_string(), "The quota of backups is -2: it must be -1 (unlimited) or more.");
    let quotas = world.app.quotas(&admin(), &project).await.unwrap();
    assert_eq!(of(&quotas, Resource::Ram).1, world.app.config.quota.max_ram_per_tenant);
}
