//! `config show|check`: the settings in effect, and whether they are right.

use std::path::Path;

use serde_json::json;

use crate::cli::{ConfigAction, ConfigArgs};
use crate::config::Settings;
use crate::control::endpoint::Endpoint;
use crate::exit::Failure;
use crate::output::Printer;

pub fn run(
    args: &ConfigArgs,
    explicit: Option<&Path>,
    api: Option<&Endpoint>,
    printer: &mut Printer,
) -> Result<u8, Failure> {
    let settings = Settings::load(explicit, api)?;
    for warning in &settings.warnings {
        printer.warn(warning);
    }
    match args.action {
        ConfigAction::Show => show(&settings, printer)?,
        // Whether the settings are right is all that can be said without the daemon, which does the rest.
        ConfigAction::Check | ConfigAction::Reload => check(&settings, printer)?,
    }
    Ok(0)
}

fn show(settings: &Settings, printer: &Printer) -> Result<(), Failure> {
    let mut written = settings.written.clone();
    written.api.listen = settings.api.clone();
    if printer.is_json() {
        let unwritable = |error| {
            Failure::new(
                "error",
                format!("the settings cannot be written as JSON: {error}"),
            )
        };
        let mut object = serde_json::to_value(&written).map_err(unwritable)?;
        if let Some(object) = object.as_object_mut() {
            object.insert("type".into(), "config".into());
            object.insert("file".into(), json!(settings.source));
        }
        return printer.json_line(&object);
    }
    let toml = toml::to_string(&written).map_err(|error| {
        Failure::new(
            "error",
            format!("the settings cannot be written as TOML: {error}"),
        )
    })?;
    printer.text(&format!("# from {}\n{}", place(settings), toml.trim_end()))
}

fn check(settings: &Settings, printer: &Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return printer.json_line(&json!({ "type": "config_ok", "file": settings.source }));
    }
    printer.text(&format!("{}: ok", place(settings)))
}

fn place(settings: &Settings) -> String {
    match &settings.source {
        Some(path) => path.display().to_string(),
        None => "the defaults, as there is no node.toml".to_owned(),
    }
}
