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
        bail!(
            "{}: only GGUF files can be quantized into a file; safetensors are quantized when they are loaded \
             (MISTRAL_DEFAULT_QUANTIZATION)",
            from.path().display()
        );
    };
    let facts = facts(from, metadata, options.importance.is_some())?;
    let tensors: Vec<Tensor<'_>> = from.tensors().collect();
    let headers = tensors.iter().map(|tensor| {
        let format = chosen_format(tensor, options, &facts)?;
        Ok(TensorHeader { name: tensor.name.to_owned(), shape: tensor.shape.to_vec(), format })
    });
    let headers = headers.collect::<Result<Vec<_>>>()?;
    if let Some(importance) = options.importance {
        check_importance(importance, &tensors, &headers)?;
    }
    let mut writer = Writer::create(path, &new_metadata(metadata, options.recipe), &headers)?;
    let total: u64 = tensors.iter().map(|tensor| tensor.data.len() as u64).sum();
    let mut done = 0;
    for (tensor, header) in tensors.iter().zip(&headers) {
        write_tensor(tensor, header.format, options, &|| from.release(tensor.name), &mut writer)?;
        from.release(tensor.name);
        done += tensor.data.len() as u64;
        progress(done, total);
    }
    Ok(writer.finish()?)
}

fn write_tensor(
    tensor: &Tensor<'_>,
    format: Format,
    options: &FileOptions<'_>,
    read: &(dyn Fn() + Sync),
    writer: &mut Writer,
) -> Result<()> {
    if format == tensor.format {
        return Ok(writer.write(tensor.data)?);
    }
    // Experts are a stack of matrices, each with an importance of its own; any other is a stack of one.
    let [stack @ .., rows, cols] = tensor.shape else { bail!("tensor {}: not a matrix", tensor.name) };
    let (matrices, rows, cols) = (stack.iter().product::<usize>(), *rows, *cols);
    let importance = match options.importance {
        Some(importance) => importance.of(tensor.name, cols, matrices)?,
        None => vec![None; matrices],
    };
    for (matrix, importance) in tensor.data.chunks(tensor.data.len() / matrices).zip(importance) {
        let view = TensorView::new(tensor.format, rows, cols, matrix).context("a tensor of whole rows")?;
        let data = options.converter.convert(view, format, importance.as_deref(), read);
        writer.write(&data.with_context(|| format!("tensor {}", tensor.name))?)?;
    }
    Ok(())
}

/// Importance that is another model's shall not go unnoticed: it would change nothing.
///
/// # Errors
/// When none of the matrices that are converted is known.
fn check_importance(importance: &Importance, tensors: &[Tensor<'_>], headers: &[TensorHeader]) -> Result<()> {
    let converted = tensors.iter().zip(headers).filter(|(tensor, header)| tensor.format != header.format);
    // Embeddings are looked up and not multiplied, and most tools measure no head.
    let is_measured = |name: &str| {
        TensorKind::from_gguf_name(name)
            .is_some_and(|(kind, _)| !matches!(kind, TensorKind::Embedding | TensorKind::Output))
    };
    let measured: Vec<&str> = converted.map(|(tensor, _)| tensor.name).filter(|name| is_measured(name)).collect();
    let unknown: Vec<&str> = measured.iter().copied().filter(|name| !importance.knows(name)).collect();
    let Some(first) = unknown.first() else { return Ok(()) };
    if unknown.len() == measured.len() {
        bail!(
            "the importance matrix knows none of the {} matrices to convert, such as {first}: it is of another model{}",
            measured.len(),
            importance.first_name().map(|name| format!(", with {name}")).unwrap_or_default()
        );
    }
    tracing::warn!(
        "the importance matrix does not know {} of {} matrices, such as {first}: they are converted without",
        unknown.len(),
        measured.len()
    );
    Ok(())
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
