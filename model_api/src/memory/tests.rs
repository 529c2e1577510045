use std::fs;

use bytes::Bytes;

use super::budget::{BLOCK_BYTES, FREE_BYTES};
use super::cgroup::check_free_processes;
use super::session_limits::MIN_GROWTH_BYTES;
use super::*;

const BOUNDS: Bounds = Bounds { bodies: 256 << 20, connections: 1024, decoding: 1 << 30, inputs: 256 << 20 };

#[test]
fn the_shares_stay_below_the_limit_and_one_session_below_that_of_all() {
    for limit in [4 << 30, 8 << 30, 64 << 30_u64] {
        let shares = Shares::new(limit, &BOUNDS, None);
        assert!(shares.own + shares.sessions <= limit, "{limit}: {shares:?}");
        assert!(shares.session <= shares.sessions && shares.session <= limit / 2, "{shares:?}");
    }
    let named = Shares::new(4 << 30, &BOUNDS, Some(3 << 30));
    assert_eq!((named.session, named.sessions), (3 << 30, 3 << 30), "the setting overrides the default");
}

#[test]
fn the_default_settings_fit_into_the_container() {
    let compose = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docker-compose.yml")).unwrap();
    let (_, after) = compose.split_once("${MODEL_API_MEMORY:-").expect("the limit of model_api");
    let (gibibytes, _) = after.split_once("G}").expect("a number of gibibytes");
    let limit = gibibytes.parse::<u64>().unwrap() << 30;
    let default = |name: &str| {
        let setting = crate::cli::PROGRAM.settings.iter().find(|setting| setting.name == name).unwrap();
        setting.default.parse::<u64>().unwrap()
    };
    // Settings that all services share are not in the help of this program.
    let decoding = 4 * default("MAX_DECODE_BYTES");
    let bounds = Bounds { decoding, inputs: default("QUEUE_BYTES"), ..BOUNDS };
    let shares = Shares::new(limit, &bounds, None);
    assert!(shares.own + shares.sessions <= limit, "{shares:?}");
    assert!(shares.session >= 1536 << 20, "{shares:?}");
}

#[test]
fn a_reservation_ends_when_the_last_copy_of_its_bytes_is_dropped() {
    let budget = Budget::new(4 * BLOCK_BYTES);
    let bytes = Bytes::from(vec![0; 3 * BLOCK_BYTES]);
    let reservation = budget.try_reserve(bytes.len()).unwrap();
    let held = reservation.attach(bytes);
    let part = held.slice(..10);
    drop((reservation, held));
    assert!(budget.try_reserve(2 * BLOCK_BYTES).is_none(), "a slice of the bytes is still alive");
    assert!(budget.try_reserve(FREE_BYTES).is_some(), "a small size needs no reservation");
    drop(part);
    assert!(budget.try_reserve(2 * BLOCK_BYTES).is_some());
    assert!(
        budget.try_reserve(100 * BLOCK_BYTES).is_some(),
        "a request above the size of the budget reserves all of it"
    );
}

#[tokio::test]
async fn a_session_that_exceeds_a_limit_is_detected() {
    let own = std::process::id();
    let limits = SessionLimits::new(1, u64::MAX);
    assert_eq!(ProcessMemory::new(limits, own).exceeded(Some(0)).await, LimitExceeded::PerSession(1));
    let limits = SessionLimits::new(u64::MAX, 1 << 20);
    limits.used().insert(0, 2 << 20);
    let memory = ProcessMemory::new(limits.clone(), own);
    let growing = vec![1_u8; 2 * MIN_GROWTH_BYTES as usize];
    assert_eq!(memory.exceeded(Some(0)).await, LimitExceeded::Total(1 << 20));
    assert!(growing.iter().all(|&byte| byte == 1));
    drop(memory);
    assert_eq!(limits.sum(), 2 << 20, "the process no longer counts");
}

#[test]
fn a_full_process_table_is_reported_with_the_numbers_and_the_remedy() {
    assert_eq!(check_free_processes(1024, 1000, 24), Ok(()));
    let error = check_free_processes(1024, 1016, 9).unwrap_err();
    assert!(error.contains("needs 9 threads, and 1016 of 1024") && error.contains("MODEL_NAME"), "{error}");
}
