//! Tests of what is granted.

use super::*;
use std::collections::HashMap;

async fn refusal(granter: &crate::objects::Granter, run: &str, needs: &[v1::ObjectNeed]) -> v1::ErrorKind {
    granter.grant(run, needs).await.unwrap_err().kind()
}

#[tokio::test]
async fn a_job_gets_what_it_is_for_in_the_order_it_asks() {
    let stored = Stored::new();
    let writer = stored.objects.writer(stored.backup, InstanceId::random(), u64::MAX);
    let needs: Vec<_> = (0..64).map(|number| write(&segment_name(number), 16 << 20)).collect();
    let grants = writer.grant(RUN, &needs).await.unwrap();
    let urls: Vec<_> = grants.iter().map(|grant| grant.url.clone()).collect();
    let expected: Vec<_> =
        (0..64).map(|number| format!("/objects/{}/{RUN}/{}", stored.backup, segment_name(number))).collect();
    assert_eq!(urls, expected);
    writer.grant(OTHER_RUN, &[write(MANIFEST_NAME, 16 << 20)]).await.expect("a writer draws its runs itself");
}

#[tokio::test]
async fn a_run_has_a_limit_and_the_next_one_takes_its_place() {
    let stored = Stored::new();
    let writer = stored.objects.writer(stored.backup, InstanceId::random(), 3000);
    stored.plant_backup(OTHER_RUN);
    writer.grant(RUN, &[write("00000000", 2000)]).await.unwrap();
    assert_eq!(stored.files(), Vec::<String>::new(), "what the earlier run has left");
    assert_eq!(refusal(&writer, RUN, &[write("00000001", 2000)]).await, v1::ErrorKind::Invalid);
    writer.grant(RUN, &[write("00000001", 1000)]).await.unwrap();
    writer.grant(OTHER_RUN, &[write("00000000", 3000)]).await.expect("each run has its own");
}

#[tokio::test]
async fn what_a_job_is_not_for_is_refused() {
    let stored = Stored::new();
    let instance = InstanceId::random();
    let writer = stored.objects.writer(stored.backup, instance, u64::MAX);
    let invalid = v1::ErrorKind::Invalid;
    let many: Vec<_> = (0..65).map(|number| write(&segment_name(number), 1)).collect();
    assert_eq!(refusal(&writer, RUN, &many).await, invalid);
    assert_eq!(refusal(&writer, RUN, &[]).await, invalid);
    assert_eq!(refusal(&writer, RUN, &[write("00000000", (24 << 20) + 1)]).await, invalid);
    assert_eq!(refusal(&writer, RUN, &[write(MANIFEST_NAME, (16 << 20) + 1)]).await, invalid);
    assert_eq!(refusal(&writer, RUN, &[write("00000000", 1), read("00000000")]).await, invalid);
    let unspecified = v1::ObjectNeed { access: 0, ..write("00000000", 1) };
    assert_eq!(refusal(&writer, RUN, &[unspecified]).await, invalid);
    let reader = stored.objects.reader(HashMap::from([(RUN.to_owned(), stored.backup)]), instance);
    assert_eq!(refusal(&reader, OTHER_RUN, &[read("00000000")]).await, invalid);
    assert_eq!(refusal(&reader, RUN, &[write("00000000", 1)]).await, invalid);
    let closed = stored.backup;
    stored.objects.delete_backup(closed).await.unwrap();
    assert_eq!(refusal(&writer, RUN, &[write("00000000", 1)]).await, v1::ErrorKind::Gone);
    reader.grant(RUN, &[read("00000000")]).await.expect("whether it is there, the request tells");
}
