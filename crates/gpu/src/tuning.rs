//! Sizes of kernels by class of device, as data: what was measured best, or is a fair guess where nobody measured yet.

/// Sizes that change speed, never results beyond rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Subgroups of a mat-vec workgroup with staged input.
    pub staged_groups: u32,
    /// Subgroups of a mat-vec workgroup whose lanes read their own input.
    pub direct_groups: u32,
    /// Matrices of up to this many outputs are spread over more workgroups.
    pub small_outputs: usize,
    /// Steps of this many rows or more multiply by cooperative matrices where there are any; fewer by mat-vec.
    pub skinny_from_rows: usize,
    /// Outputs of a workgroup of that kernel: 16 or 32.
    pub skinny_outputs: usize,
    /// Prefill's attention goes by cooperative matrices where there are any.
    pub flash_prefill: bool,
}

/// Vendor ids of PCI.
const NVIDIA: u32 = 0x10de;

impl Tuning {
    /// Fair for anything.
    pub const PORTABLE: Tuning = Tuning {
        staged_groups: 8,
        direct_groups: 4,
        small_outputs: 4096,
        skinny_from_rows: 2,
        skinny_outputs: 16,
        flash_prefill: true,
    };

    /// NVIDIA's data centre cards.
    pub const NVIDIA: Tuning = Tuning { ..Tuning::PORTABLE };

    /// Apple's M series; not measured yet.
    pub const APPLE: Tuning = Tuning { ..Tuning::PORTABLE };

    /// The class of an adapter.
    pub(crate) fn of(adapter: &wgpu::Adapter) -> Tuning {
        let info = adapter.get_info();
        match info.backend {
            wgpu::Backend::Metal => Tuning::APPLE,
            _ if info.vendor == NVIDIA => Tuning::NVIDIA,
            _ => Tuning::PORTABLE,
        }
    }

    /// Sets a field by its name, as benchmarks do.
    ///
    /// # Errors
    /// The field's name is unknown, or the value no number.
    pub fn set(&mut self, field: &str, value: &str) -> Result<(), String> {
        let number: usize = value.parse().map_err(|_| format!("{field}={value}: not a number"))?;
        match field {
            "staged_groups" => self.staged_groups = number as u32,
            "direct_groups" => self.direct_groups = number as u32,
            "small_outputs" => self.small_outputs = number,
            "skinny_from_rows" => self.skinny_from_rows = number,
            "flash_prefill" => self.flash_prefill = number != 0,
            "skinny_outputs" if matches!(number, 16 | 32) => self.skinny_outputs = number,
            _ => return Err(format!("{field}={value}: no such tuning")),
        }
        Ok(())
    }
}
