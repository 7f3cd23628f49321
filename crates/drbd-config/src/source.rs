//! The text of the configuration files, and positions in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes around a place in which the ends of its line are looked for.
const LINE_WINDOW: usize = 1024;

/// A file that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileId(pub(crate) u32);

/// A piece of a file: where something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// Line of the first byte, counted from 1; 0 if it was not written at all.
    pub line: u32,
    /// Offset of the first byte.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
}

/// One file with its text.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Name as it was given or included.
    pub name: String,
    /// Absolute name.
    pub path: PathBuf,
    /// The bytes.
    pub text: Arc<Vec<u8>>,
}

impl SourceFile {
    /// The absolute name if there is one (standard input has none).
    pub fn full_name(&self) -> String {
        if self.path.as_os_str().is_empty() {
            self.name.clone()
        } else {
            self.path.display().to_string()
        }
    }
}

/// All files of one configuration.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<SourceFile>,
}

impl Sources {
    /// Adds a file. The number of files is bounded by the reader.
    pub fn add(&mut self, name: String, path: PathBuf, text: Arc<Vec<u8>>) -> FileId {
        let id = FileId(self.files.len() as u32);
        self.files.push(SourceFile { name, path, text });
        id
    }

    /// The file of an id.
    pub fn get(&self, id: FileId) -> Option<&SourceFile> {
        self.files.get(id.0 as usize)
    }

    /// The text of a file.
    pub(crate) fn text(&self, id: FileId) -> Arc<Vec<u8>> {
        self.get(id).map(|f| f.text.clone()).unwrap_or_default()
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// True if nothing was read.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Name of the file a span lies in, as given.
    pub fn name(&self, span: Span) -> &str {
        self.get(span.file).map_or("", |f| f.name.as_str())
    }

    /// Absolute name of the file a span lies in.
    pub fn full_name(&self, span: Span) -> String {
        self.get(span.file)
            .map_or_else(String::new, SourceFile::full_name)
    }

    /// The line a span starts in, without the line end, and the column of the span in bytes,
    /// counted from 0.
    pub fn line(&self, span: Span) -> Option<(&[u8], usize)> {
        if span.line == 0 {
            return None;
        }
        let text = &self.get(span.file)?.text;
        let at = (span.start as usize).min(text.len());
        // Nobody reads a line of megabytes; looking for its ends for every finding would take long.
        let low = at.saturating_sub(LINE_WINDOW);
        let high = text.len().min(at + LINE_WINDOW);
        let before = text.get(low..at)?;
        let after = text.get(at..high)?;
        let start = before
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(low, |p| low + p + 1);
        let end = after
            .iter()
            .position(|b| *b == b'\n')
            .map_or(high, |p| at + p);
        Some((text.get(start..end)?, at - start))
    }
}

/// The canonical name of a file, or the name itself.
pub(crate) fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}
