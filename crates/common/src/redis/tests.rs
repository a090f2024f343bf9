//! Errors of Redis, from a real one: which calls they concern.

use secrecy::SecretString;

use super::*;

/// A connection with a pause so long that no test sees its end.
async fn connected() -> Redis {
    let settings = RedisSettings {
        url: SecretString::from(testkit::servers::shared().await.redis_url()),
        ca_file: String::new(),
        cert_file: String::new(),
        key_file: String::new(),
        timeout_ms: testkit::PATIENCE.as_millis() as u64,
        pause_ms: 3_600_000,
    };
    Redis::open(&settings, &format!("{}:", uuid::Uuid::now_v7())).unwrap()
}

#[tokio::test]
async fn a_script_that_fails_pauses_nobody_and_a_server_that_cannot_work_pauses_all() {
    let redis = connected().await;
    let key = redis.key("known");
    redis.set(&key, b"7", Duration::from_secs(60)).await.unwrap();
    for source in
        ["return redis.error_reply('MINE of a script')", "return redis.call('LPOP', KEYS[1])", "return nothing.at.all"]
    {
        let failed = redis.run::<String>(&Script::new("failing", source), std::slice::from_ref(&key), &[]).await;
        assert!(matches!(failed, Err(Unavailable::Refused(_))), "{source}: {failed:?}");
        assert_eq!(redis.get(&key).await.unwrap().as_deref(), Some(&b"7"[..]), "after {source}");
    }
    // The answer is no number, which is the caller's mistake.
    let misread = redis.run::<i64>(&Script::new("misread", "return 'x'"), &[], &[]).await;
    assert!(matches!(misread, Err(Unavailable::Refused(_))), "{misread:?}");

    let source = "return redis.error_reply('LOADING Redis is loading the dataset in memory')";
    let loading = redis.run::<String>(&Script::new("loading", source), &[], &[]).await;
    assert!(matches!(loading, Err(Unavailable::Away(_))), "{loading:?}");
    let paused = redis.get(&key).await;
    assert!(matches!(&paused, Err(Unavailable::Away(why)) if why.starts_with("paused")), "{paused:?}");
}
