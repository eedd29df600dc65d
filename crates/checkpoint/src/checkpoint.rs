//! A model on disk, opened and checked, whatever its kind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use indexmap::map::Entry;
use tensor::Format;

use crate::error::{capped, quoted};
use crate::gguf::{self, Metadata, TensorHeader};
use crate::mmap::Mapping;
use crate::tensor::{Extent, size_bytes};
use crate::{CheckpointError, HfConfig, Tensor, hf, limits, safetensors};

/// An opened model: description and tensors. The files stay mapped as long as it lives.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    description: Description,
    tensors: Tensors,
}

/// What the author of a model wrote about it.
#[derive(Clone, Debug, PartialEq)]
pub enum Description {
    /// The key-values of a GGUF file (the first one of a split set).
    Gguf(Metadata),
    /// `config.json` of a Hugging Face directory.
    HuggingFace(HfConfig),
}

impl Checkpoint {
    /// Opens a GGUF file (any part of a split set opens the whole set), a safetensors file with `config.json` beside
    /// it, or a Hugging Face directory. Reads headers only; weights stay on disk until they are used.
    ///
    /// # Errors
    /// One line that names the file, the thing, its value and the limit, for every file that is not a valid model in
    /// formats of [`tensor::Format`].
    pub fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
        if path.is_dir() {
            return hf::open_directory(path);
        }
        let mapping = Mapping::open(path)?;
        if gguf::is_gguf(mapping.bytes()) {
            return gguf::open(path, mapping);
        }
        if safetensors::is_safetensors(mapping.bytes()) {
            return hf::open_file(path, mapping);
        }
        let first: Vec<u8> = mapping.bytes().iter().copied().take(8).collect();
        let found = format!("\"{}\"", first.escape_ascii());
        Err(CheckpointError::invalid("start of the file", found, "that of a GGUF or safetensors file").in_file(path))
    }

    /// A model that no file holds, for measurements: tensors of one format share their bytes, which `fill` writes once a
    /// format. It takes as much memory as the largest tensor of each format.
    ///
    /// # Errors
    /// A shape that is no whole number of blocks, a name that occurs twice, too little memory.
    pub fn in_memory(
        name: &str,
        metadata: Metadata,
        tensors: &[TensorHeader],
        fill: &mut dyn FnMut(Format, &mut [u8]),
    ) -> Result<Checkpoint, CheckpointError> {
        let mut all = Tensors::default();
        for format in Format::ALL {
            let of_format = tensors.iter().filter(|tensor| tensor.format == format);
            let sizes = of_format.clone().map(|tensor| size_bytes(&tensor.shape, format));
            let largest = sizes.collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or(0);
            if largest > 0 {
                let extent = |tensor: &TensorHeader| {
                    Ok((tensor.name.clone(), Extent::new(tensor.shape.clone(), format, 0, largest)?))
                };
                let extents = of_format.map(extent).collect::<Result<Vec<_>, CheckpointError>>()?;
                all.add(Mapping::anonymous(largest, |bytes| fill(format, bytes))?, extents)?;
            }
        }
        Ok(Checkpoint::new(Path::new(name), Description::Gguf(metadata), all))
    }

    /// What it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold its tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.tensors.files.iter().filter_map(Mapping::path)
    }

    /// What the author wrote about the network.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensors.get(name)
    }

    /// All tensors in file order, part by part.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.tensors.iter()
    }

    /// Gives the memory of a tensor's pages back to the system; they are read again from the file when somebody looks.
    pub fn release(&self, name: &str) {
        self.tensors.release(name);
    }

    /// The mapped files, for devices that read weights in place; they stay mapped as long as somebody holds them.
    pub fn mappings(&self) -> Vec<Arc<memmap2::Mmap>> {
        self.tensors.files.iter().filter_map(Mapping::shared).collect()
    }

    pub(crate) fn new(path: &Path, description: Description, tensors: Tensors) -> Checkpoint {
        Checkpoint { path: path.to_owned(), description, tensors }
    }
}

/// The tensors of one or several mapped files, by name.
#[derive(Debug, Default)]
pub(crate) struct Tensors {
    files: Vec<Mapping>,
    by_name: IndexMap<String, (usize, Extent)>,
}

impl Tensors {
    /// Adds a file and its tensors. Names are unique over all files.
    pub(crate) fn add(
        &mut self,
        file: Mapping,
        tensors: impl IntoIterator<Item = (String, Extent)>,
    ) -> Result<(), CheckpointError> {
        let index = self.files.len();
        self.files.push(file);
        for (name, extent) in tensors {
            match self.by_name.entry(name) {
                Entry::Occupied(entry) => {
                    return Err(CheckpointError::duplicate(format!("tensor {}", quoted(entry.key()))));
                }
                Entry::Vacant(entry) => entry.insert((index, extent)),
            };
        }
        capped("number of tensors", self.by_name.len() as u64, limits::TENSORS)?;
        Ok(())
    }

    pub(crate) fn get(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, (file, extent)) = self.by_name.get_key_value(name)?;
        Some(extent.tensor(name, self.files[*file].bytes()))
    }

    fn release(&self, name: &str) {
        if let Some((file, extent)) = self.by_name.get(name) {
            self.files[*file].release(extent.range());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    fn iter(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.by_name.iter().map(|(name, (file, extent))| extent.tensor(name, self.files[*file].bytes()))
    }
}
