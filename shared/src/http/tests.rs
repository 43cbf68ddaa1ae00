use super::*;

#[test]
fn a_client_is_asked_to_wait_until_the_time_has_come_and_no_second_longer() {
    let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    for (ms, seconds) in [
        (-3_600_000, "1"),
        (-1, "1"),
        (0, "1"),
        (1, "1"),
        (999, "1"),
        (1000, "1"),
        (1001, "2"),
        (59_999, "60"),
        (60_000, "60"),
        (60_001, "61"),
        (86_400_000, "86400"),
    ] {
        let until = now + chrono::TimeDelta::milliseconds(ms);
        let reply = Reply::ok(()).retry_at(Some(until), now).into_response().unwrap();
        assert_eq!(reply.headers["retry-after"], seconds, "{ms} ms");
        let refusal = ApiError::too_many("x", "x", until, now).into_response("r-1");
        assert_eq!(refusal.headers["retry-after"], seconds, "{ms} ms");
    }
    let reply = Reply::ok(()).retry_at(None, now).into_response().unwrap();
    assert!(!reply.headers.contains_key("retry-after"));
}

#[test]
fn a_cause_never_reaches_the_body() {
    let response = ApiError::internal("password is hunter2").into_response("r-1");
    assert_eq!(response.status, 500);
    assert!(!response.body.contains("hunter2"));
    assert!(response.body.contains("r-1"));
}
