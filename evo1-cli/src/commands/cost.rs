//! Parameters and operations of a policy, component by component.

use evo1::{
    Components,
    config::PolicyConfig,
    cost::{PartCost, Workload, costs_as},
};
use eyre::Result;
use serde_json::{Value, json};

/// Parts of a policy in the order of the data.
const PARTS: [&str; 3] = ["vision", "language", "action"];

/// The table that `evo1 inspect --flops` prints.
pub(crate) fn table<C: Components>(config: &PolicyConfig, workload: &Workload) -> Result<String> {
    let once = costs_as::<C>(config, workload)?;
    let every_step = costs_as::<C>(config, &Workload { keys_values_once: false, ..*workload })?;
    let Workload { tiles, tokens, steps, .. } = workload;
    let mut text = format!("one prediction from {tiles} tiles and {tokens} tokens in {steps} steps\n\n");
    text += &format!("{:10}{:24}{:>15}{:>12}\n", "part", "component", "parameters", "GFLOP");
    let line = |part: &str, name: &str, parameters: u64, flops: u64| {
        let parameters = indicatif::HumanCount(parameters).to_string();
        format!("{part:10}{name:24}{parameters:>15}{:>12.3}\n", flops as f64 / 1e9)
    };
    for part in PARTS {
        let of_part: Vec<&PartCost> = once.iter().filter(|component| component.part == part).collect();
        for component in &of_part {
            text += &line(part, component.name, component.parameters, component.flops);
        }
        text += &line(part, "all", of_part.iter().map(|c| c.parameters).sum(), of_part.iter().map(|c| c.flops).sum());
    }
    let sum = |components: &[PartCost]| components.iter().map(|component| component.flops).sum::<u64>();
    text += &line("all", "", once.iter().map(|component| component.parameters).sum(), sum(&once));
    text += &format!(
        "\nwith the context's keys and values computed in every step, as the references do: {:.1} GFLOP\n",
        sum(&every_step) as f64 / 1e9
    );
    Ok(text)
}

/// The same as JSON.
pub(crate) fn document<C: Components>(config: &PolicyConfig, workload: &Workload) -> Result<Value> {
    let listed: Vec<Value> = costs_as::<C>(config, workload)?
        .iter()
        .map(|PartCost { part, name, parameters, flops }| {
            json!({ "part": part, "component": name, "parameters": parameters, "flops": flops })
        })
        .collect();
    let Workload { tiles, tokens, steps, .. } = workload;
    Ok(json!({ "tiles": tiles, "tokens": tokens, "steps": steps, "components": listed }))
}
