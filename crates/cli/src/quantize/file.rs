//! A GGUF file with its weights in other formats, made from another or from a directory of safetensors.

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result, bail};
use checkpoint::gguf::{Metadata, TensorHeader, Writer, partial_path};
use checkpoint::{Checkpoint, Description, Sizes, Tensor};
use model::{DecoderConfig, Export, ExportTensor};
use tensor::{Format, ModelFacts, Recipe, TensorKind, TensorView};

use super::{Converter, Importance};
use crate::stop::RemovedOnStop;

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

/// Writes `from` to `path` in the formats of a recipe. Norms, biases and metadata stay as they are. `progress` is
/// called with bytes read so far and in all. What fails leaves a file at `path` as it was.
///
/// # Errors
/// A directory of which a GGUF file cannot tell all, weights that are quantized already unless that is asked for,
/// values that are no numbers.
pub(crate) fn write_file(
    from: &Checkpoint,
    path: &Path,
    options: &FileOptions<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let Source { metadata, tensors } = Source::of(from)?;
    let facts = facts(from, &metadata, &tensors, options.importance.is_some())?;
    let headers = tensors.iter().map(|tensor| {
        let format = chosen_format(tensor, options, &facts)?;
        Ok(TensorHeader { name: tensor.name().to_owned(), shape: tensor.shape().to_vec(), format })
    });
    let headers = headers.collect::<Result<Vec<_>>>()?;
    if let Some(importance) = options.importance {
        check_importance(importance, &tensors, &headers)?;
    }
    let _removed = RemovedOnStop::new(partial_path(path)?)?;
    let mut writer = Writer::create(path, &new_metadata(&metadata, options.recipe), &headers)?;
    let total: u64 = from.tensors().map(|tensor| tensor.data.len() as u64).sum();
    let mut done = 0;
    for (tensor, header) in tensors.iter().zip(&headers) {
        let data = tensor.data();
        let release = || tensor.source().into_iter().for_each(|name| from.release(name));
        write_tensor(tensor, &data, header.format, options, &release, &mut writer)?;
        release();
        done += data.len() as u64;
        progress(done.min(total), total);
    }
    if matches!(from.description(), Description::HuggingFace(_)) {
        check_written(from, writer.complete()?)?;
    }
    Ok(writer.finish()?)
}

/// Whether the file at `path` is of the network that it was made from, as far as descriptions tell.
///
/// # Errors
/// When it is not: GGUF's metadata has no words for something.
fn check_written(from: &Checkpoint, path: &Path) -> Result<()> {
    let (wanted, written) = (DecoderConfig::from_checkpoint(from)?, Checkpoint::open(path)?);
    let found = DecoderConfig::from_checkpoint(&written)?;
    if !found.is_network_of(&wanted) {
        bail!(
            "{}: a GGUF file cannot describe this network; it can be served as it is, quantized when it is loaded \
             (MISTRAL_DEFAULT_QUANTIZATION)",
            from.path().display()
        );
    }
    Ok(())
}

/// What goes into the file.
struct Source<'a> {
    metadata: Metadata,
    tensors: Vec<Stored<'a>>,
}

/// A tensor before it gets another format.
enum Stored<'a> {
    Gguf(Tensor<'a>),
    Exported(ExportTensor<'a>),
}

impl<'a> Source<'a> {
    fn of(from: &'a Checkpoint) -> Result<Self> {
        match from.description() {
            Description::Gguf(metadata) => {
                Ok(Self { metadata: metadata.clone(), tensors: from.tensors().map(Stored::Gguf).collect() })
            }
            Description::HuggingFace(config) => {
                let place = || from.path().display().to_string();
                let Export { mut metadata, tensors } = Export::of(from).with_context(place)?;
                let rows = DecoderConfig::from_checkpoint(from)?.vocab();
                if !tokenizer::write_gguf_metadata(&config.dir, rows, &mut metadata).with_context(place)? {
                    tracing::warn!("{}: no tokenizer.json: the file holds no tokenizer", config.dir.display());
                }
                let name = from.path().file_name().map(|name| name.to_string_lossy().into_owned());
                metadata.insert("general.name", name.unwrap_or_default());
                Ok(Self { metadata, tensors: tensors.into_iter().map(Stored::Exported).collect() })
            }
        }
    }
}

impl Stored<'_> {
    fn name(&self) -> &str {
        match self {
            Stored::Gguf(tensor) => tensor.name,
            Stored::Exported(tensor) => &tensor.name,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Stored::Gguf(tensor) => tensor.shape,
            Stored::Exported(tensor) => &tensor.shape,
        }
    }

    fn format(&self) -> Format {
        match self {
            Stored::Gguf(tensor) => tensor.format,
            Stored::Exported(tensor) => tensor.format,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Stored::Gguf(tensor) => Cow::Borrowed(tensor.data),
            Stored::Exported(tensor) => tensor.data(),
        }
    }

    /// The tensor of the source whose pages it needs.
    fn source(&self) -> Option<&str> {
        match self {
            Stored::Gguf(tensor) => Some(tensor.name),
            Stored::Exported(tensor) => tensor.source(),
        }
    }
}

fn write_tensor(
    tensor: &Stored<'_>,
    data: &[u8],
    format: Format,
    options: &FileOptions<'_>,
    read: &(dyn Fn() + Sync),
    writer: &mut Writer,
) -> Result<()> {
    let name = tensor.name();
    if format == tensor.format() {
        return Ok(writer.write(data)?);
    }
    // Experts are a stack of matrices, each with an importance of its own; any other is a stack of one.
    let [stack @ .., rows, cols] = tensor.shape() else { bail!("tensor {name}: not a matrix") };
    let (matrices, rows, cols) = (stack.iter().product::<usize>(), *rows, *cols);
    let importance = match options.importance {
        Some(importance) => importance.of(name, cols, matrices)?,
        None => vec![None; matrices],
    };
    for (matrix, importance) in data.chunks(data.len() / matrices).zip(importance) {
        let view = TensorView::new(tensor.format(), rows, cols, matrix).context("a tensor of whole rows")?;
        let converted = options.converter.convert(view, format, importance.as_deref(), read);
        writer.write(&converted.with_context(|| format!("tensor {name}"))?)?;
    }
    Ok(())
}

/// Importance that would change nothing shall not go unnoticed.
///
/// # Errors
/// When no matrix is converted to a format that has a use for it, or none of those that are is known.
fn check_importance(importance: &Importance, tensors: &[Stored<'_>], headers: &[TensorHeader]) -> Result<()> {
    let converted = tensors.iter().zip(headers).filter(|(tensor, header)| tensor.format() != header.format);
    let weighed: Vec<_> = converted.filter(|(_, header)| weighs_errors(header.format)).collect();
    if weighed.is_empty() {
        bail!(
            "--imatrix would change nothing: no matrix is converted to a format that weighs errors (f32, f16, bf16 and q8_0 \
             round each value by itself)"
        );
    }
    // Embeddings are looked up and not multiplied, and most tools measure no head.
    let is_measured = |name: &str| {
        TensorKind::from_gguf_name(name)
            .is_some_and(|(kind, _)| !matches!(kind, TensorKind::Embedding | TensorKind::Output))
    };
    let measured: Vec<&str> =
        weighed.iter().map(|(tensor, _)| tensor.name()).filter(|name| is_measured(name)).collect();
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

/// Whether it matters to a format what errors cost: one that chooses the scales of its blocks by them.
fn weighs_errors(format: Format) -> bool {
    !matches!(format, Format::F32 | Format::F16 | Format::BF16 | Format::Q8_0)
}

/// The format that a tensor gets: its own, where it is no matrix that recipes speak of.
fn chosen_format(tensor: &Stored<'_>, options: &FileOptions<'_>, facts: &ModelFacts) -> Result<Format> {
    let (name, stored) = (tensor.name(), tensor.format());
    let Some((kind, layer)) = TensorKind::from_gguf_name(name).filter(|_| tensor.shape().len() >= 2) else {
        return Ok(stored);
    };
    let cols = tensor.shape().last().copied().unwrap_or(1);
    let format = options.recipe.format(tensor::TensorPlace { kind, layer, cols }, facts);
    let loses_again = stored.block_len() > 1 && ![stored, Format::F32].contains(&format);
    if loses_again && !options.requantize {
        bail!(
            "tensor {name} is {} already: quantizing twice loses more than once; pass --requantize to do it all the same",
            stored.name()
        );
    }
    Ok(format)
}

fn facts(from: &Checkpoint, metadata: &Metadata, tensors: &[Stored<'_>], importance: bool) -> Result<ModelFacts> {
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
        tied_embedding: tensors.iter().all(|tensor| tensor.name() != "output.weight"),
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
