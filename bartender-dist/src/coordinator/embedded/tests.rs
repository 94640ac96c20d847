//! The contract, on the embedded coordinator; and what is its own: history that ends, and time that is exact.

use super::super::contract;
use super::*;
use bartender_pm::mutant;

#[tokio::test(start_paused = true)]
async fn the_volatile_one_keeps_the_contract() {
    contract::all(Arc::new(Embedded::volatile()), "t/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_volatile_one_keeps_the_contract_among_threads() {
    contract::all(Arc::new(Embedded::volatile()), "t/").await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_exactly_when_its_ttl_has_passed() {
    let embedded = Embedded::volatile();
    let start = Instant::now();
    let lease = embedded.grant(Duration::from_millis(700)).await.unwrap();
    let put = Change::put_bound("k", "v", lease.id);
    embedded.transact(vec![], vec![put]).await.unwrap();
    let mut watch = embedded.watch("", 2).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    embedded.keep_alive(lease.id).await.unwrap();
    let changes = watch.next().await.unwrap();
    assert_eq!(changes.keys, [("k".to_owned(), None)]);
    assert_eq!(start.elapsed(), Duration::from_millis(1200));
}

/// The time after which a lease of two seconds was over.
fn life() -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let embedded = Embedded::volatile();
        let start = Instant::now();
        let lease = embedded.grant(Duration::from_secs(2)).await.unwrap();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = embedded.read("").await.unwrap();
            let put = Change::put_bound("k", "v", lease.id);
            if embedded.transact(vec![], vec![put]).await.is_err() {
                return start.elapsed();
            }
        }
    })
}

#[test]
fn a_lease_that_ends_early_is_noticed() {
    assert_eq!(life(), Duration::from_secs(2));
    if mutant::ON {
        let early = mutant::with("lease_ends_early", life);
        assert!(early < Duration::from_secs(2), "{early:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_fell_too_far_behind_is_told_and_goes_on_after_a_read() {
    let embedded = Embedded::volatile();
    let mut watch = embedded.watch("k", 1).await.unwrap();
    for i in 0..5000 {
        let put = Change::put("k", i.to_string());
        embedded.transact(vec![], vec![put]).await.unwrap();
    }
    let error = watch.next().await.unwrap_err();
    let Error::Compacted { asked: 1, oldest } = error else {
        panic!("{error}");
    };
    // It is told again and again.
    watch.next().await.unwrap_err();
    let mut watch = embedded.watch("k", oldest).await.unwrap();
    for revision in oldest + 1..=5001 {
        assert_eq!(watch.next().await.unwrap().revision, revision);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_what_never_changes_does_not_fall_behind() {
    let embedded = Embedded::volatile();
    let mut watch = embedded.watch("other", 1).await.unwrap();
    let task = tokio::spawn(async move { watch.next().await });
    for _ in 0..10_000 {
        let put = Change::put("k", "v");
        embedded.transact(vec![], vec![put]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let put = Change::put("other", "v");
    embedded.transact(vec![], vec![put]).await.unwrap();
    assert_eq!(task.await.unwrap().unwrap().revision, 10_002);
}

#[tokio::test(start_paused = true)]
async fn what_watches_might_want_takes_a_bounded_amount_of_memory() {
    let embedded = Embedded::volatile();
    let mut revision = 1;
    for _ in 0..100 {
        let put = Change::put("k", vec![1; 250_000]);
        revision += 1;
        embedded.transact(vec![], vec![put]).await.unwrap();
    }
    let mut watch = embedded.watch("", 1).await.unwrap();
    let error = watch.next().await.unwrap_err();
    let Error::Compacted { oldest, .. } = error else {
        panic!("{error}");
    };
    // 16 MiB of 25 MB.
    assert_eq!(revision - oldest, 67);
}

/// Who has seen a later revision than there is saw another past, which this coordinator has lost, and has to read again.
#[tokio::test(start_paused = true)]
async fn a_watch_from_a_revision_that_is_not_there_yet_is_refused() {
    let embedded = Embedded::volatile();
    embedded
        .transact(vec![], vec![Change::put("k", "v")])
        .await
        .unwrap();
    let now = embedded.read("").await.unwrap().revision;
    let error = match embedded.watch("", now + 1).await {
        Ok(mut watch) => watch.next().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, Error::Compacted { .. }), "{error}");
}
