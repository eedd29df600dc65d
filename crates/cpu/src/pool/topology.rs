//! Which cores there are for us, how threads are bound to them, and whether others want them.

use std::fs::File;
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::Duration;

/// Cores that this process may use: one logical CPU a physical core, within the affinity mask, and no more than the
/// cgroup's quota pays for. At least one. The numbers are the system's (for binding threads); where the system does not
/// bind threads they only count. Counted once, before a thread of ours is bound to fewer.
pub fn usable_cores() -> &'static [usize] {
    static CORES: OnceLock<Vec<usize>> = OnceLock::new();
    CORES.get_or_init(count_cores)
}

fn count_cores() -> Vec<usize> {
    let quota = std::thread::available_parallelism().map_or(1, usize::from);
    let mut cores = physical_cores().unwrap_or_else(|| (0..quota).collect());
    cores.truncate(quota.max(1));
    if cores.is_empty() {
        cores.push(0);
    }
    cores
}

#[cfg(target_os = "linux")]
fn physical_cores() -> Option<Vec<usize>> {
    let allowed = affinity_mask()?;
    let mut cores: Vec<usize> = Vec::new();
    for cpu in allowed {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let siblings = std::fs::read_to_string(path).map(|text| parse_cpu_list(&text)).unwrap_or_default();
        if !siblings.iter().any(|sibling| cores.contains(sibling)) {
            cores.push(cpu);
        }
    }
    Some(cores)
}

/// Logical CPUs that the scheduler may put this process on.
#[cfg(target_os = "linux")]
fn affinity_mask() -> Option<Vec<usize>> {
    // SAFETY: an all-zero `cpu_set_t` is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the size given is that of `set`, which outlives the call.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) };
    // SAFETY: every index is below the set's size.
    let cpus = || (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect();
    (failed == 0).then(cpus)
}

/// `0-3,8,10-11`: the format of the kernel's CPU lists. Nonsense gives an empty list.
#[cfg(target_os = "linux")]
fn parse_cpu_list(text: &str) -> Vec<usize> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().take(libc::CPU_SETSIZE as usize).collect()
}

/// Binds the calling thread to one core. A system that refuses costs speed only.
#[cfg(target_os = "linux")]
pub(super) fn pin_current_thread(core: usize) {
    // SAFETY: it is always there.
    bind(unsafe { libc::pthread_self() }, core);
}

/// Binds a thread that has not been joined to one core, likewise.
#[cfg(target_os = "linux")]
pub(super) fn pin_thread(thread: &JoinHandle<()>, core: usize) {
    bind(std::os::unix::thread::JoinHandleExt::as_pthread_t(thread), core);
}

#[cfg(target_os = "linux")]
fn bind(thread: libc::pthread_t, core: usize) {
    // SAFETY: an all-zero `cpu_set_t` is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if core < libc::CPU_SETSIZE as usize {
        // SAFETY: `core` is below the set's size.
        unsafe { libc::CPU_SET(core, &mut set) };
        // SAFETY: the size given is that of `set`, which outlives the call; the callers' thread is there, or not joined yet.
        unsafe { libc::pthread_setaffinity_np(thread, size_of::<libc::cpu_set_t>(), &set) };
    }
}

/// How long a thread has stood in the queue for its core since it was made: ready to run while another ran.
#[derive(Debug)]
pub(super) struct QueueTime(#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "never made"))] File);

impl QueueTime {
    /// Of the calling thread, if the system counts it.
    pub(super) fn of_current_thread() -> Option<QueueTime> {
        File::open("/proc/thread-self/schedstat").ok().map(QueueTime)
    }

    /// The time until now.
    #[cfg(target_os = "linux")]
    pub(super) fn read(&self) -> Option<Duration> {
        let mut text = [0; 64];
        let len = std::os::unix::fs::FileExt::read_at(&self.0, &mut text, 0).ok()?;
        parse_queue_time(std::str::from_utf8(&text[..len]).ok()?)
    }

    /// Never made elsewhere.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn read(&self) -> Option<Duration> {
        None
    }
}

/// Of `running waiting slices`, in nanoseconds.
#[cfg(target_os = "linux")]
fn parse_queue_time(text: &str) -> Option<Duration> {
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Performance cores, where the system tells them apart.
#[cfg(target_os = "macos")]
fn physical_cores() -> Option<Vec<usize>> {
    let count: libc::c_int = crate::macos::sysctl(c"hw.perflevel0.physicalcpu")?;
    (count > 0).then(|| (0..count as usize).collect())
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn physical_cores() -> Option<Vec<usize>> {
    None
}

#[cfg(not(target_os = "linux"))]
pub(super) fn pin_current_thread(_: usize) {}

#[cfg(not(target_os = "linux"))]
pub(super) fn pin_thread(_: &JoinHandle<()>, _: usize) {}

/// Asks for performance cores where threads cannot be bound (macOS chooses by quality of service).
#[cfg(target_os = "macos")]
pub(super) fn prefer_fast_cores() {
    // SAFETY: changes the scheduling class of the calling thread only.
    unsafe { libc::pthread_set_qos_class_self_np(libc::qos_class_t::QOS_CLASS_USER_INTERACTIVE, 0) };
}

#[cfg(not(target_os = "macos"))]
pub(super) fn prefer_fast_cores() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_core() {
        let cores = usable_cores();
        assert!(!cores.is_empty());
        assert!(cores.len() <= std::thread::available_parallelism().map_or(1, usize::from));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn cpu_lists_are_parsed() {
        let check = |text: &str, expected: &[usize]| assert_eq!(parse_cpu_list(text), expected, "{text:?}");
        check("0\n", &[0]);
        check("0-2,5,7-8\n", &[0, 1, 2, 5, 7, 8]);
        check("", &[]);
        check("x,3", &[3]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn time_in_the_queue_is_the_second_number() {
        assert_eq!(parse_queue_time("106940 2040706 2\n"), Some(Duration::from_nanos(2_040_706)));
        assert_eq!(parse_queue_time("106940\n"), None);
        assert!(QueueTime::of_current_thread().is_none_or(|time| time.read().is_some()));
    }
}
