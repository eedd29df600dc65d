//! Rows of the table, rotation, KV store and attention.

use tensor::{Attend, BackendError, LayerDims, PAGE_TOKENS, Qkv, RopeStyle};

use super::recorder::{Launch, Recorder, bind};
use super::{GpuBackend, MATVEC_ROWS};
use crate::device::{FlashTrust, Gpu};
use crate::kv::KvFormat;
use crate::layout::UNIT;
use crate::memory::Slice;
use crate::shaders::{self, AttendShape, FlashShape, RopeShape, Turn};
use crate::weights::GpuMatrix;

/// Whether there are kernels for a layer's attention; if not, what there is.
pub(super) fn check_layer(gpu: &Gpu, layer: &LayerDims) -> Result<(), String> {
    if !layer.head_dim.is_multiple_of(4) || layer.head_dim > 4 * PAGE_TOKENS {
        return Err(format!("head sizes are multiples of 4 up to {}", 4 * PAGE_TOKENS));
    }
    let (wanted, most) = (shaders::attend_bytes(layer), gpu.max_workgroup_bytes());
    if wanted > most {
        return Err(format!("a kernel would need {wanted} bytes of workgroup memory, the device has {most}"));
    }
    Ok(())
}

/// What queries and keys go through between their projection and attention.
pub(super) struct Turning {
    turn: Turn,
    /// Epsilons of the norms of queries and of keys.
    eps: [f32; 2],
    /// Cosines and sines, weights of both norms, as far as there are any.
    buffers: Vec<Slice>,
}

/// The stages around the KV cache.
impl Recorder<'_> {
    pub(super) fn embed(&mut self, table: &GpuMatrix, scale: f32) -> Result<(), BackendError> {
        let stride = self.scratch.dim_stride;
        for segment in &table.segments {
            let params = [
                table.units as u32,
                (segment.layout.stride_bytes / 4) as u32,
                (segment.layout.header_bytes / 4) as u32,
                stride as u32,
                segment.first_row as u32,
                segment.rows as u32,
                self.step.at.tokens as u32,
                scale.to_bits(),
                segment.weights_at,
            ];
            self.push(Launch {
                source: shaders::embed(segment.format),
                buffers: &[(0, &segment.buffer), (1, &self.scratch.x), (2, &self.step.buffer)],
                params: &params,
                grid: [self.shape.rows, 1, 1],
                bytes: self.shape.rows * (segment.layout.stride_bytes + 4 * stride),
            })?;
        }
        Ok(())
    }

    /// Norm over heads, rotation, and the way of keys and values into their pages; left to attention where that can do it.
    pub(super) fn turn(&mut self, args: &Qkv<'_, GpuBackend>) -> Result<(), BackendError> {
        let rope = args.rope.map(|index| &self.dims.ropes[index]);
        let turn = Turn {
            pairs: rope.map_or(0, |rope| rope.inv_freq.len()),
            interleaved: rope.is_some_and(|rope| rope.style == RopeStyle::Interleaved),
            q_norm: args.q_norm.is_some(),
            k_norm: args.k_norm.is_some(),
        };
        let turns = args.rope.map(|index| &self.scratch.turns[index]).filter(|_| turn.pairs > 0);
        let norms = [args.q_norm, args.k_norm];
        let [q_weight, k_weight] = norms.map(|norm| norm.map(|norm| &norm.weight));
        let turning = Turning {
            turn,
            eps: norms.map(|norm| norm.map_or(0.0, |norm| norm.eps)),
            buffers: [turns, q_weight, k_weight].into_iter().flatten().map(|buffer| (**buffer).clone()).collect(),
        };
        let layer = self.layer(args.layer);
        // A thread at least for each query head of a KV head, and for its key.
        let room = layer.heads / layer.kv_heads < PAGE_TOKENS;
        if self.shape.decode && self.gpu.options.flash_attention && room {
            *self.turning = Some(turning);
            return Ok(());
        }
        self.rope_and_store(args.layer, &turning)
    }

    fn rope_and_store(&mut self, layer: usize, turning: &Turning) -> Result<(), BackendError> {
        let (pages, at) = (&self.kv.layers[layer], self.step.at);
        let layer = self.layer(layer);
        let shape = RopeShape {
            heads: layer.heads,
            kv_heads: layer.kv_heads,
            head_dim: layer.head_dim,
            turn: turning.turn,
            key: pages.key,
            value: pages.value,
        };
        let width = (layer.heads + 2 * layer.kv_heads) * layer.head_dim;
        let params = [
            width as u32,
            pages.group as u32,
            self.kv.groups as u32,
            at.table_stride as u32,
            at.tables as u32,
            at.seqs as u32,
            at.positions as u32,
            turning.eps[0].to_bits(),
            turning.eps[1].to_bits(),
            pages.key.scales_at(pages.values),
            pages.value.scales_at(pages.values),
        ];
        let mut buffers = bind(&[(0, &self.scratch.qkv), (1, &self.step.buffer), (2, &pages.k), (3, &pages.v)]);
        buffers.extend((4..).zip(&turning.buffers));
        self.push(Launch {
            source: shaders::rope_and_store(&shape),
            buffers: &buffers,
            params: &params,
            grid: [layer.heads + 2 * layer.kv_heads, self.shape.rows, 1],
            bytes: 8 * width * self.shape.rows,
        })
    }

    /// Attention, whose idle workgroups may bring weights of `next` ahead.
    pub(super) fn attend(&mut self, args: &Attend, next: Option<&GpuMatrix>) -> Result<(), BackendError> {
        let layer = self.layer(args.layer);
        let (pages, at, rows, splits) = (&self.kv.layers[args.layer], self.step.at, self.shape.rows, self.shape.splits);
        // Prefill rows walk their whole history in one workgroup, unless they shall be summed as those of decode are: the
        // partial sums of many splits would not fit.
        let whole = rows > MATVEC_ROWS && !self.gpu.options.batch_invariant;
        let split = if whole { usize::MAX >> 33 } else { self.scratch.split };
        let turning = self.turning.take();
        let workgroups = self.gpu.tuning.workgroups_ahead.div_ceil(splits);
        let ahead = next.and_then(|next| next.segments.first()).filter(|_| rows == 1 && workgroups > 0);
        let eps = turning.as_ref().map_or([0.0; 2], |turning| turning.eps);
        let halves = self.attends_to_halves(&layer);
        let shape = AttendShape {
            heads: layer.heads,
            kv_heads: layer.kv_heads,
            head_dim: layer.head_dim,
            soft_cap: args.soft_cap.is_some(),
            key: pages.key,
            value: pages.value,
            alone: splits == 1,
            fresh: turning.as_ref().map(|turning| turning.turn),
            halves: halves && splits == 1,
            ahead: ahead.is_some(),
        };
        let stride = (layer.heads * layer.head_dim).next_multiple_of(UNIT);
        let params = [
            ((layer.heads + 2 * layer.kv_heads) * layer.head_dim) as u32,
            pages.group as u32,
            self.kv.groups as u32,
            at.table_stride as u32,
            at.tables as u32,
            at.seqs as u32,
            at.positions as u32,
            splits as u32,
            split as u32,
            args.window.map_or(i32::MAX as u32, |window| window as u32),
            args.scale.to_bits(),
            args.soft_cap.unwrap_or(0.0).to_bits(),
            pages.key.scales_at(pages.values),
            pages.value.scales_at(pages.values),
            stride as u32,
            // On trial, the sums are rescaled whenever a score is greater than those before.
            if self.gpu.flash_trust(layer.head_dim) == FlashTrust::OnTrial { 0.0 } else { shaders::FLASH_SLACK }
                .to_bits(),
            eps[0].to_bits(),
            eps[1].to_bits(),
            self.scratch.halves_stride as u32,
            ahead.map_or(0, |segment| segment.bytes() / 16) as u32,
        ];
        let history = splits * self.scratch.split;
        let row_values = (layer.kv_heads * layer.head_dim) as u64;
        let kv_bytes = rows * history * (pages.key.bytes(row_values) + pages.value.bytes(row_values)) as usize;
        let (scratch, step) = (self.scratch, &*self.step.buffer);
        if !self.gpu.options.flash_attention {
            return self.push(Launch {
                source: shaders::plain_attend(&shape),
                buffers: &[(0, &scratch.qkv), (1, step), (2, &pages.k), (3, &pages.v), (4, &scratch.o)],
                params: &params,
                grid: [rows, layer.heads, 1],
                bytes: kv_bytes,
            });
        }
        if let Some(shape) = self.flash_shape(args, &layer) {
            return self.push(Launch {
                source: shaders::flash(&shape),
                buffers: &[(0, &scratch.qkv), (1, step), (2, &pages.k), (3, &pages.v), (4, &scratch.o)],
                params: &params,
                grid: [layer.kv_heads, rows.div_ceil(shape.batch_rows()), 1],
                bytes: kv_bytes,
            });
        }
        let partial_bytes = 4 * rows * splits * layer.heads * (layer.head_dim + 2);
        let (to, to_bytes) = match splits {
            1 => (&scratch.o, 4 * rows * stride),
            _ => (&scratch.partial, partial_bytes),
        };
        let mut buffers = bind(&[(0, &scratch.qkv), (1, step), (2, &pages.k), (3, &pages.v), (4, to)]);
        buffers.extend((5..).zip(turning.iter().flat_map(|turning| &turning.buffers)));
        buffers.extend(shape.halves.then_some((8, &*scratch.halves)));
        buffers.extend(ahead.map(|segment| (9, &*segment.buffer)));
        self.push_baked(Launch {
            source: shaders::attend(&shape),
            buffers: &buffers,
            params: &params,
            grid: [rows, layer.kv_heads + if shape.ahead { workgroups } else { 0 }, splits],
            bytes: kv_bytes + to_bytes,
        })?;
        if splits == 1 {
            return Ok(());
        }
        let mut buffers = bind(&[(0, &scratch.partial), (1, &scratch.o), (2, step)]);
        buffers.extend(halves.then_some((3, &*scratch.halves)));
        self.push(Launch {
            source: shaders::merge_splits(layer.head_dim, halves),
            buffers: &buffers,
            params: &[
                splits as u32,
                split as u32,
                layer.heads as u32,
                stride as u32,
                at.positions as u32,
                scratch.halves_stride as u32,
            ],
            grid: [rows, layer.heads, 1],
            bytes: partial_bytes + 4 * rows * stride,
        })
    }

    /// Whether attention leaves its result as f16, too, where the next product most often wants it.
    pub(super) fn attends_to_halves(&self, layer: &LayerDims) -> bool {
        let few = (self.gpu.tuning.wide_from_rows..=shaders::FEW).contains(&self.shape.rows);
        let cooperative = self.gpu.variants.best().cooperative == Some(16) && !self.gpu.options.batch_invariant;
        // What pads a row nobody would write.
        let whole = (layer.heads * layer.head_dim).is_multiple_of(shaders::DEPTH);
        few && cooperative && whole && self.gpu.options.flash_attention
    }

    /// The kernel for prefill by cooperative matrices, where it can be used.
    fn flash_shape(&self, args: &Attend, layer: &LayerDims) -> Option<FlashShape> {
        let pages = &self.kv.layers[args.layer];
        let halves = pages.key == KvFormat::F16 && pages.value == KvFormat::F16;
        let shape = FlashShape {
            heads: layer.heads,
            kv_heads: layer.kv_heads,
            head_dim: layer.head_dim,
            soft_cap: args.soft_cap.is_some(),
            edge: self.gpu.variants.best().cooperative?,
            subgroup_size: self.gpu.subgroup_size,
        };
        let many = self.shape.rows > MATVEC_ROWS && !self.gpu.options.batch_invariant;
        let trusted = self.gpu.flash_trust(layer.head_dim) != FlashTrust::Wrong;
        (halves && many && trusted && self.gpu.tuning.flash_prefill && shape.exists()).then_some(shape)
    }
}
