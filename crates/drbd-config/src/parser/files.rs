//! Finding and opening the files that are read ("Configuration language", section 1).

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Severity};
use crate::lexer::Token;
use crate::source::{FileId, Span, canonical};

use super::tokens::Step;
use super::{Frame, MAX_FILE, MAX_FILES, MAX_TOTAL, Parser, Pending};

impl Parser {
    /// Reads a file into the list of sources.
    pub(super) fn open(&mut self, path: &Path, name: String) -> Result<FileId, String> {
        if self.config.sources.len() >= MAX_FILES {
            return Err(format!("more than {MAX_FILES} files"));
        }
        let file = std::fs::File::open(path).map_err(|e| reason(&e))?;
        let metadata = file.metadata().map_err(|e| reason(&e))?;
        if metadata.is_dir() {
            return Err("is a directory".to_owned());
        }
        let limit = MAX_FILE.min(MAX_TOTAL.saturating_sub(self.total));
        // It may be larger in a moment, or not tell; then it grows.
        let expected = metadata.len().min(limit).saturating_add(1);
        let mut text = Vec::with_capacity(usize::try_from(expected).unwrap_or(0));
        file.take(limit + 1)
            .read_to_end(&mut text)
            .map_err(|e| reason(&e))?;
        if text.len() as u64 > limit {
            return Err(format!(
                "larger than {} MiB, this is no configuration file",
                limit >> 20
            ));
        }
        self.total += text.len() as u64;
        let absolute = match (path.parent(), path.file_name()) {
            (Some(dir), Some(file)) => {
                let dir = if dir.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    dir
                };
                canonical(dir).join(file)
            }
            _ => path.to_path_buf(),
        };
        Ok(self.config.sources.add(name, absolute, Arc::new(text)))
    }

    /// Directory of the file a statement stands in.
    fn directory(&self, span: Span) -> PathBuf {
        self.config
            .sources
            .get(span.file)
            .and_then(|f| f.path.parent())
            .filter(|d| !d.as_os_str().is_empty())
            .map_or_else(
                || std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
                Path::to_path_buf,
            )
    }

    /// Opens a file named relative to the file a statement stands in.
    pub(super) fn open_beside(
        &mut self,
        span: Span,
        name: &str,
    ) -> Result<(FileId, Arc<Vec<u8>>), String> {
        let path = self.directory(span).join(name);
        let display = path.display().to_string();
        plain_file(&path)?;
        let file = self.open(&path, display)?;
        Ok((file, self.config.sources.text(file)))
    }

    /// Opens a file to include, unless it was read before.
    pub(super) fn include(&mut self, pending: Pending) -> Step<Option<Frame>> {
        let path = canonical(&pending.path);
        if !self.seen.insert(path.clone()) {
            // What a pattern finds may well be the file it stands in; by name it is a mistake.
            if pending.literal && self.reading.contains(&path) {
                let message = format!(
                    "'{}' includes itself, directly or through other files.",
                    pending.name
                );
                self.report(
                    Diagnostic::error(pending.span, message)
                        .full()
                        .help("remove this 'include'"),
                );
            }
            return Ok(None);
        }
        // What a pattern found may be gone by now.
        let gone = !pending.literal && std::fs::metadata(&path).is_err_and(|e| missing(&e));
        let opened = plain_file(&pending.path)
            .and_then(|()| self.open(&pending.path, pending.path.display().to_string()));
        match opened {
            Ok(file) => Ok(Some(self.frame(file, path))),
            Err(reason) => {
                let message = format!("Failed to open include file '{}'.", pending.name);
                let finding = Diagnostic::error(pending.span, message).full().help(reason);
                self.report(if gone {
                    Diagnostic {
                        severity: Severity::Warning,
                        ..finding
                    }
                } else {
                    finding
                });
                Ok(None)
            }
        }
    }

    /// The files an `include` names.
    pub(super) fn included(&mut self, name: &Token<'_>) -> Vec<Pending> {
        let wild = name.text.contains(['*', '?', '[']);
        let mut pattern = PathBuf::from(glob::Pattern::escape(
            &self.directory(name.span).display().to_string(),
        ));
        pattern.push(&*name.text);
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let directory = self.directory(name.span);
        let pending = |path: PathBuf| {
            let shown = path.strip_prefix(&directory).unwrap_or(&path);
            Pending {
                name: match wild {
                    true => shown.display().to_string(),
                    false => name.text.to_string(),
                },
                path,
                span: name.span,
                literal: !wild,
            }
        };
        if !wild {
            return vec![pending(directory.join(&*name.text))];
        }
        match glob::glob_with(&pattern.to_string_lossy(), options) {
            Ok(paths) => {
                let files: Vec<Pending> = paths.flatten().map(pending).collect();
                if files.is_empty() && self.verbose {
                    let message = format!("no match for include pattern '{}'.", name.text);
                    self.report(Diagnostic::warning(name.span, message));
                }
                files
            }
            Err(error) => {
                let message = format!("Invalid include pattern '{}': {}.", name.text, error.msg);
                self.report(Diagnostic::error(name.span, message));
                Vec::new()
            }
        }
    }
}

/// What a configuration names must be a file: reading a pipe or a terminal could take for ever. What the administrator names
/// on the command line may be a pipe, such as the shell's `<(...)`.
fn plain_file(path: &Path) -> Result<(), String> {
    let kind = std::fs::metadata(path).map_err(|e| reason(&e))?.file_type();
    if kind.is_file() || path == Path::new("/dev/null") {
        Ok(())
    } else if kind.is_dir() {
        Err("is a directory".to_owned())
    } else {
        Err("is not a regular file".to_owned())
    }
}

fn missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

/// The reason of an I/O error without the number.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "No such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "Permission denied".to_owned(),
        _ => error.to_string(),
    }
}
