//! A GGUF file with its weights in other formats.

use std::path::Path;

use anyhow::{Context, Result, bail};
use checkpoint::gguf::{Metadata, TensorHeader, Writer};
use checkpoint::{Checkpoint, Description, Sizes, Tensor};
use tensor::{Format, ModelFacts, Recipe, TensorKind, TensorView};

use super::{Converter, Importance};

/// How to make the file.
pub(crate) struct FileOptions<'a> {
    pub(crate) recipe: Recipe,
    pub(crate) importance: Option<&'a Importance>,
    /// Take weights that are quantized already.
    pub(crate) requantize: bool,
    pub(crate) converter: Converter,
}

/// Version of the quantized formats' layout, as readers of GGUF know it.
const QUANTIZATION_VERSION: u32 = 2;

/// Writes `from` to `path` in the formats of a recipe. Norms, biases and metadata stay as they are. `progress` is called
/// with bytes read so far and in all.
///
/// # Errors
/// A model that is no GGUF file, weights that are quantized already unless that is asked for, values that are no numbers.
pub(crate) fn write_file(
    from: &Checkpoint,
    path: &Path,
    options: &FileOptions<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let Description::Gguf(metadata) = from.description() else {
        bail!("{}: only GGUF files can be quantized into a file", from.path().display());
    };
    let facts = facts(from, metadata, options.importance.is_some())?;
    let tensors: Vec<Tensor<'_>> = from.tensors().collect();
    let headers = tensors.iter().map(|tensor| {
        let format = chosen_format(tensor, options, &facts)?;
        Ok(TensorHeader { name: tensor.name.to_owned(), shape: tensor.shape.to_vec(), format })
    });
    let headers = headers.collect::<Result<Vec<_>>>()?;
    let mut writer = Writer::create(path, &new_metadata(metadata, options.recipe), &headers)?;
    let total: u64 = tensors.iter().map(|tensor| tensor.data.len() as u64).sum();
    let mut done = 0;
    for (tensor, header) in tensors.iter().zip(&headers) {
        write_tensor(tensor, header.format, options, &mut writer)?;
        from.release(tensor.name);
        done += tensor.data.len() as u64;
        progress(done, total);
    }
    Ok(writer.finish()?)
}

fn write_tensor(tensor: &Tensor<'_>, format: Format, options: &FileOptions<'_>, writer: &mut Writer) -> Result<()> {
    if format == tensor.format {
        return Ok(writer.write(tensor.data)?);
    }
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let importance = match options.importance {
        Some(importance) => importance.of(tensor.name, cols)?,
        None => None,
    };
    // A stack of matrices is a matrix of all their rows.
    let rows = tensor.value_count() / cols;
    let view = TensorView::new(tensor.format, rows, cols, tensor.data).context("a tensor of whole rows")?;
    let data = options.converter.convert(view, format, importance.as_deref());
    Ok(writer.write(&data.with_context(|| format!("tensor {}", tensor.name))?)?)
}

/// The format that a tensor gets: its own, where it is no matrix that recipes speak of.
fn chosen_format(tensor: &Tensor<'_>, options: &FileOptions<'_>, facts: &ModelFacts) -> Result<Format> {
    let Some((kind, layer)) = TensorKind::from_gguf_name(tensor.name).filter(|_| tensor.shape.len() >= 2) else {
        return Ok(tensor.format);
    };
    let cols = tensor.shape.last().copied().unwrap_or(1);
    let format = options.recipe.format(tensor::TensorPlace { kind, layer, cols }, facts);
    let loses_again = tensor.format.block_len() > 1 && ![tensor.format, Format::F32].contains(&format);
    if loses_again && !options.requantize {
        bail!(
            "tensor {} is {} already: quantizing twice loses more than once; pass --requantize to do it all the same",
            tensor.name,
            tensor.format.name()
        );
    }
    Ok(format)
}

fn facts(from: &Checkpoint, metadata: &Metadata, importance: bool) -> Result<ModelFacts> {
    let sizes = Sizes::of(from.description())?;
    let architecture = metadata.str("general.architecture")?.context("the file names no general.architecture")?;
    let layers = sizes.layers.with_context(|| format!("the file has no {architecture}.block_count"))?;
    let first = |key: &str| -> Result<Option<usize>> {
        let per_layer = metadata.u32_per_layer(&format!("{architecture}.{key}"), layers)?;
        Ok(per_layer.and_then(|values| values.first().map(|&value| value as usize)))
    };
    let heads = first("attention.head_count")?.unwrap_or(0);
    Ok(ModelFacts {
        layers,
        heads,
        kv_heads: first("attention.head_count_kv")?.unwrap_or(heads),
        experts: metadata.u32(&format!("{architecture}.expert_count"))?.unwrap_or(0) as usize,
        tied_embedding: from.tensor("output.weight").is_none(),
        importance,
    })
}

/// The metadata of one file, whatever it was before.
fn new_metadata(metadata: &Metadata, recipe: Recipe) -> Metadata {
    let mut metadata = metadata.clone();
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    metadata.insert("general.file_type", recipe.gguf_file_type());
    metadata.insert("general.quantization_version", QUANTIZATION_VERSION);
    metadata
}
