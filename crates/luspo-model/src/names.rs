//! Parameters by their Hugging Face names.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use crate::modeling::Qwen2ForCausalLM;
use crate::value::Qwen2ForTokenClassification;

/// A parameter of the model, as it stands in a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) id: ParamId,
    /// The plain tensor, flattened over Burn's own layout.
    pub(crate) value: Tensor<1>,
    /// The shape in a checkpoint.
    pub(crate) shape: Vec<usize>,
    /// Whether the checkpoint holds the transpose of `value`: the weight of a linear layer.
    pub(crate) transposed: bool,
}

impl Qwen2ForCausalLM {
    /// Every parameter's Hugging Face name and id, sorted by name: what ties an optimizer's state to a checkpoint.
    pub fn parameter_names(&self) -> Vec<(String, ParamId)> {
        names(self)
    }

    /// Number of parameters; a tied head counts once.
    pub fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl Qwen2ForTokenClassification {
    /// Every parameter's Hugging Face name and id, sorted by name: what ties an optimizer's state to a checkpoint.
    pub fn parameter_names(&self) -> Vec<(String, ParamId)> {
        names(self)
    }
}

fn names(module: &impl Module) -> Vec<(String, ParamId)> {
    named(module).into_iter().map(|parameter| (parameter.name, parameter.id)).collect()
}

/// The parameters of a module whose fields bear their Hugging Face names, sorted by name.
pub(crate) fn named(module: &impl Module) -> Vec<Named> {
    let mut walk = Walk::default();
    module.visit(&mut walk);
    walk.found.sort_by(|a, b| a.name.cmp(&b.name));
    walk.found
}

/// Field names are the Hugging Face keys, so a parameter's path through the module is its name.
#[derive(Default)]
struct Walk {
    path: Vec<String>,
    containers: Vec<String>,
    found: Vec<Named>,
}

impl ModuleVisitor for Walk {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.to_string());
        self.containers.push(container.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let mut shape = param.dims().to_vec();
        let transposed = D == 2 && self.containers.last().is_some_and(|container| container == "Struct:Linear");
        if transposed {
            shape.reverse();
        }
        let size = shape.iter().product::<usize>();
        let value = param.val().inner().reshape([size]);
        self.found.push(Named { name: self.path.join("."), id: param.id, value, shape, transposed });
    }
}
