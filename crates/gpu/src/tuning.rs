//! Sizes of kernels by class of device, as data: what was measured best, or is a fair guess where nobody measured yet.

use crate::shaders::WideTile;

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
    /// Steps of up to this many rows multiply by packed 8-bit dot products, where the weights' format has them; 0 for none.
    pub dots_rows: usize,
    /// Rows of the batch of one of its workgroups: a power of two.
    pub dots_batch: usize,
    /// Outputs of one of its subgroups for a single row, and for several; even.
    pub dots_outputs: [u32; 2],
    /// Subgroups of one of its workgroups.
    pub dots_groups: u32,
    /// Where a step has a single row: how many workgroups share a matrix, each making the bytes of the row itself; 0 for a
    /// dispatch of its own that makes them.
    pub single_workgroups: usize,
    /// Most subgroups of one of these.
    pub single_groups: u32,
    /// Outputs that one of these subgroups computes at a time; even.
    pub single_outputs: u32,
    /// Whether a lane has its next weights on their way while it multiplies.
    pub single_ahead: bool,
    /// Workgroups that bring weights into the cache while a few others attend.
    pub workgroups_ahead: usize,
    /// Steps of this many rows or more multiply by the tiles of prefill.
    pub wide_from_rows: usize,
    /// Steps of this many rows or more have their weights unpacked to f16 before these tiles multiply.
    pub unpack_from_rows: usize,
    /// What a workgroup computes then.
    pub unpacked_tile: WideTile,
    /// What kernels of decode are told is compiled into them: that takes a fetch from memory less.
    pub baked_params: bool,
    /// About how many workgroups keep the device busy where the rows are few: the depth is cut for it.
    pub few_workgroups: usize,
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
        dots_rows: 0,
        dots_batch: 8,
        dots_outputs: [2, 2],
        dots_groups: 4,
        single_workgroups: 0,
        single_groups: 8,
        single_outputs: 2,
        single_ahead: true,
        workgroups_ahead: 0,
        wide_from_rows: 65,
        unpack_from_rows: usize::MAX,
        unpacked_tile: WideTile { batch_rows: 128, outputs: 128, depth: 64 },
        few_workgroups: 0,
        baked_params: false,
    };

    /// NVIDIA's data centre cards, as measured on an H100: docs/performance.md.
    pub const NVIDIA: Tuning = Tuning {
        dots_rows: 32,
        single_workgroups: 132,
        single_groups: 20,
        workgroups_ahead: 60,
        wide_from_rows: 8,
        unpack_from_rows: 1024,
        unpacked_tile: WideTile { batch_rows: 192, outputs: 128, depth: 64 },
        few_workgroups: 264,
        baked_params: true,
        ..Tuning::PORTABLE
    };

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
            "dots_rows" => self.dots_rows = number,
            "dots_batch" if number.is_power_of_two() => self.dots_batch = number,
            "dots_outputs" if number.is_multiple_of(2) => self.dots_outputs[0] = number as u32,
            "dots_outputs_of_several" if number.is_multiple_of(2) => self.dots_outputs[1] = number as u32,
            "dots_groups" => self.dots_groups = number as u32,
            "single_workgroups" => self.single_workgroups = number,
            "single_groups" => self.single_groups = number as u32,
            "single_ahead" => self.single_ahead = number != 0,
            "single_outputs" if number.is_multiple_of(2) => self.single_outputs = number as u32,
            "workgroups_ahead" => self.workgroups_ahead = number,
            "wide_from_rows" => self.wide_from_rows = number,
            "unpack_from_rows" => self.unpack_from_rows = number,
            "unpacked_rows" if number.is_multiple_of(64) => self.unpacked_tile.batch_rows = number,
            "unpacked_outputs" if matches!(number, 32 | 64 | 128) => self.unpacked_tile.outputs = number,
            "unpacked_depth" if matches!(number, 32 | 64) => self.unpacked_tile.depth = number,
            "few_workgroups" => self.few_workgroups = number,
            "baked_params" => self.baked_params = number != 0,
            "skinny_outputs" if matches!(number, 16 | 32) => self.skinny_outputs = number,
            _ => return Err(format!("{field}={value}: no such tuning")),
        }
        Ok(())
    }
}
