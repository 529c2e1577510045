use std::fs;
use std::path::Path;

use web_api::memory_bound::memory_bound;
use web_api::settings::Settings;

const MIB: u64 = 1 << 20;

/// The memory limit of a service in docker-compose.yml, bytes.
fn limit_of(service: &str) -> u64 {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker-compose.yml");
    let text = fs::read_to_string(file).unwrap();
    let begin = text.find(&format!("\n  {service}:\n")).unwrap();
    let limit = text[begin..].lines().find_map(|line| line.split_once("limits: {memory: ")).unwrap().1;
    let number: String = limit.chars().take_while(char::is_ascii_digit).collect();
    assert!(limit[number.len()..].starts_with('M'), "{limit}");
    number.parse::<u64>().unwrap() * MIB
}

#[test]
fn the_memory_bound_of_the_default_settings_is_below_the_limit_of_the_container() {
    let mut settings = Settings::from_env().unwrap();
    settings.redis_url = Some("redis://db_api:6379".to_owned());
    let bound = memory_bound(&settings);
    for service in ["web_api", "job_worker"] {
        let limit = limit_of(service);
        assert!(bound <= limit, "{service}: bound of {} MiB, limit of {} MiB", bound / MIB, limit / MIB);
    }
}

#[test]
fn each_setting_changes_the_bound() {
    let settings = Settings::from_env().unwrap();
    let before = memory_bound(&settings);
    let mut more = settings.clone();
    more.server.body_memory_bytes += 100 << 20;
    assert_eq!(memory_bound(&more), before + 150 * MIB);
    more = settings.clone();
    more.near_cache_bytes += 100 * MIB;
    assert!(memory_bound(&more) >= before + 100 * MIB);
    more = settings.clone();
    more.server.max_connections *= 2;
    assert!(memory_bound(&more) > before);
    more = settings.clone();
    more.max_concurrent_requests *= 2;
    assert!(memory_bound(&more) > before);
    more = settings.clone();
    more.redis_url = Some("redis://db_api:6379".to_owned());
    assert!(memory_bound(&more) < before, "with Redis, jobs are not kept in this process");
}
