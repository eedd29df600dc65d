//! What limits this process: the machine's memory and its control groups.

use cpu::machine;

/// What limits this process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Memory of the machine; `None` where the system does not tell.
    pub(crate) total_bytes: Option<u64>,
    /// Limit of the control group.
    pub(crate) cgroup_bytes: Option<u64>,
}

impl Machine {
    /// Asks the system.
    pub(crate) fn read() -> Self {
        Self { total_bytes: machine::total_bytes(), cgroup_bytes: machine::group_limit_bytes() }
    }
}
