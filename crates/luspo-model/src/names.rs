//! Parameters by their Hugging Face names.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, FloatDType, Tensor};

use crate::dtype::WeightDtype;
use crate::modeling::Qwen2ForCausalLM;
use crate::value::Qwen2ForTokenClassification;

/// A parameter of the model, as it stands in a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) id: ParamId,
    /// The plain tensor, flat.
    pub(crate) value: Tensor<1>,
    pub(crate) shape: Vec<usize>,
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

    /// The number type that is computed with: that of the parameters, but for matrices that are
    /// [frozen](crate::Pretrained::load_frozen).
    pub fn dtype(&self) -> WeightDtype {
        WeightDtype::of_tensor(self.model.dtype())
    }

    /// The number type that the embedding is held in; in a checkpoint of one type, all matrices are.
    pub fn held_dtype(&self) -> WeightDtype {
        WeightDtype::of_tensor(self.model.embed_tokens.weight.dtype())
    }

    /// The same model with parameters of another number type, each rounded to the nearest one there is; they keep their
    /// ids. Parameters that have the type already are shared.
    ///
    /// # Panics
    /// If the device does not compute with the type.
    pub fn cast(self, dtype: WeightDtype) -> Self {
        self.map(&mut Cast(dtype))
    }
}

impl Qwen2ForTokenClassification {
    /// Every parameter's Hugging Face name and id, sorted by name: what ties an optimizer's state to a checkpoint.
    pub fn parameter_names(&self) -> Vec<(String, ParamId)> {
        names(self)
    }

    /// The number type of the parameters.
    pub fn dtype(&self) -> WeightDtype {
        WeightDtype::of_tensor(self.score.weight.dtype())
    }

    /// As [`Qwen2ForCausalLM::cast`].
    pub fn cast(self, dtype: WeightDtype) -> Self {
        self.map(&mut Cast(dtype))
    }
}

/// Gives every parameter another number type, one after the other.
struct Cast(WeightDtype);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if param.dtype() == DType::from(self.0) {
            return param;
        }
        param.map(|value| match value.is_autodiff() {
            // A parameter begins a graph: the conversion is no part of it.
            true => {
                let trained = value.is_require_grad();
                value.inner().cast(FloatDType::from(self.0)).autodiff().set_require_grad(trained)
            }
            false => value.cast(FloatDType::from(self.0)),
        })
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
    found: Vec<Named>,
}

impl ModuleVisitor for Walk {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = param.dims().to_vec();
        let size = shape.iter().product::<usize>();
        let value = param.val().inner().reshape([size]);
        self.found.push(Named { name: self.path.join("."), id: param.id, value, shape });
    }
}
