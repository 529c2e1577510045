use super::*;

const BOUNDS: Bounds = Bounds { bodies: 256 << 20, connections: 1024, decoding: 1 << 30, inputs: 256 << 20 };

#[test]
fn all_bounds_together_stay_below_the_limit_and_one_session_below_that_of_all() {
    for limit in [4 << 30, 8 << 30, 64 << 30_u64] {
        let shares = Shares::new(limit, &BOUNDS, None);
        assert!(shares.own + shares.sessions <= limit, "{limit}: {shares:?}");
        assert!(shares.session <= shares.sessions && shares.session <= limit / 2, "{shares:?}");
    }
    let named = Shares::new(4 << 30, &BOUNDS, Some(3 << 30));
    assert_eq!((named.session, named.sessions), (3 << 30, 3 << 30), "the operator has the last word");
}

#[test]
fn the_bounds_at_the_defaults_fit_into_the_container() {
    let compose = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docker-compose.yml")).unwrap();
    let (_, after) = compose.split_once("${MODEL_API_MEMORY:-").expect("the limit of model_api");
    let (gibibytes, _) = after.split_once("G}").expect("a number of gibibytes");
    let limit = gibibytes.parse::<u64>().unwrap() << 30;
    let default = |name: &str| {
        let setting = crate::cli::PROGRAM.settings.iter().find(|setting| setting.name == name).unwrap();
        setting.default.parse::<u64>().unwrap()
    };
    // Those that all services have are not in this program's help.
    let decoding = 4 * default("MAX_DECODE_BYTES");
    let bounds = Bounds { decoding, inputs: default("QUEUE_BYTES"), ..BOUNDS };
    let shares = Shares::new(limit, &bounds, None);
    assert!(shares.own + shares.sessions <= limit, "{shares:?}");
    assert!(shares.session >= 1536 << 20, "{shares:?}");
}

#[test]
fn a_budget_is_given_back_when_the_last_copy_of_its_bytes_is_dropped() {
    let budget = Budget::new(4 * PIECE);
    let bytes = Bytes::from(vec![0; 3 * PIECE]);
    let reserved = budget.try_reserve(bytes.len()).unwrap();
    let held = reserved.hold(bytes);
    let part = held.slice(..10);
    drop((reserved, held));
    assert!(budget.try_reserve(2 * PIECE).is_none(), "a part of the bytes is still there");
    assert!(budget.try_reserve(FREE_BYTES).is_some(), "little needs no reservation");
    drop(part);
    assert!(budget.try_reserve(2 * PIECE).is_some());
    assert!(budget.try_reserve(100 * PIECE).is_some(), "what is larger than all of it has all of it");
}

#[tokio::test]
async fn a_session_that_uses_more_than_it_may_is_noticed() {
    let own = std::process::id();
    let limits = SessionLimits::new(1, u64::MAX);
    assert_eq!(Usage::new(limits, own).exceeded(Some(0)).await, Exceeded::Each(1));
    let limits = SessionLimits::new(u64::MAX, 1 << 20);
    limits.used().insert(0, 2 << 20);
    let usage = Usage::new(limits.clone(), own);
    let growing = vec![1_u8; 2 * GROWTH_BYTES as usize];
    assert_eq!(usage.exceeded(Some(0)).await, Exceeded::All(1 << 20));
    assert!(growing.iter().all(|&byte| byte == 1));
    drop(usage);
    assert_eq!(limits.sum(), 2 << 20, "it no longer counts");
}

#[test]
fn a_full_process_table_is_told_with_the_figures_and_the_remedy() {
    assert_eq!(room_for_process(1024, 1000, 24), Ok(()));
    let words = room_for_process(1024, 1016, 9).unwrap_err();
    assert!(words.contains("needs 9 threads, and 1016 of 1024") && words.contains("MODEL_NAME"), "{words}");
}
