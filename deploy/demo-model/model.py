"""The demo checkpoint's network: a small `deepseek_v3` model for training.

Attention with low-rank queries and keys/values (MLA), rotary positions on a
slice shared by all heads, then a dense feed-forward layer or a mixture of
experts. Names of tensors carry their shape: b batch, t position, h head,
d hidden, n = b*t tokens, k experts chosen per token, e experts, g groups of
experts, f expert width, v vocabulary; s = n*k (token, expert) slots.
"""
import torch
import torch.nn.functional as F
from torch import nn


class DemoModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(
            Layer(config, index) for index in range(config["num_hidden_layers"]))
        self.norm = RmsNorm(config["hidden_size"])
        self.config = config
        self.apply(initialize)
        scale_residual_outputs(self)

    def forward(self, ids_bt):
        rotation = rotary_tables(self.config, ids_bt.shape[1])
        x_btd = self.embed_tokens(ids_bt)
        for layer in self.layers:
            x_btd = layer(x_btd, rotation)
        return F.linear(self.norm(x_btd), self.embed_tokens.weight)

    def moe_layers(self):
        return [layer.mlp for layer in self.layers if isinstance(layer.mlp, Moe)]


class Layer(nn.Module):
    def __init__(self, config, index):
        super().__init__()
        width = config["hidden_size"]
        self.input_layernorm = RmsNorm(width)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RmsNorm(width)
        is_dense = index < config["first_k_dense_replace"]
        self.mlp = Mlp(width, config["intermediate_size"]) if is_dense else Moe(config)

    def forward(self, x_btd, rotation):
        x_btd = x_btd + self.self_attn(self.input_layernorm(x_btd), rotation)
        return x_btd + self.mlp(self.post_attention_layernorm(x_btd))


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.nope, self.rope = config["qk_nope_head_dim"], config["qk_rope_head_dim"]
        self.kv_rank, self.v_dim = config["kv_lora_rank"], config["v_head_dim"]
        q_rank, qk_dim = config["q_lora_rank"], self.nope + self.rope
        self.q_a_proj = linear(width, q_rank)
        self.q_a_layernorm = RmsNorm(q_rank)
        self.q_b_proj = linear(q_rank, self.heads * qk_dim)
        self.kv_a_proj_with_mqa = linear(width, self.kv_rank + self.rope)
        self.kv_a_layernorm = RmsNorm(self.kv_rank)
        self.kv_b_proj = linear(self.kv_rank, self.heads * (self.nope + self.v_dim))
        self.o_proj = linear(self.heads * self.v_dim, width)

    def forward(self, x_btd, rotation):
        q_bhtc = self.queries(x_btd, rotation)
        k_bhtc, v_bhtc = self.keys_and_values(x_btd, rotation)
        # The fused kernel wants values as wide as keys: pad with zeros.
        v_padded_bhtc = F.pad(v_bhtc, (0, k_bhtc.shape[-1] - self.v_dim))
        y_bhtc = F.scaled_dot_product_attention(q_bhtc, k_bhtc, v_padded_bhtc, is_causal=True)
        y_bthc = y_bhtc[..., :self.v_dim].transpose(1, 2)
        return self.o_proj(y_bthc.flatten(2))

    def queries(self, x_btd, rotation):
        q_btc = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_btd)))
        q_bhtc = q_btc.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        nope_bhtc, rope_bhtc = q_bhtc.split([self.nope, self.rope], dim=-1)
        return torch.cat([nope_bhtc, rotate(rope_bhtc, rotation)], dim=-1)

    def keys_and_values(self, x_btd, rotation):
        latent_btr, rope_btr = self.kv_a_proj_with_mqa(x_btd).split(
            [self.kv_rank, self.rope], dim=-1)
        kv_btc = self.kv_b_proj(self.kv_a_layernorm(latent_btr))
        kv_bhtc = kv_btc.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        nope_bhtc, v_bhtc = kv_bhtc.split([self.nope, self.v_dim], dim=-1)
        rope_bhtr = rotate(rope_btr, rotation).unsqueeze(1).expand(-1, self.heads, -1, -1)
        return torch.cat([nope_bhtc, rope_bhtr], dim=-1), v_bhtc


class Mlp(nn.Module):
    def __init__(self, width, inner_width):
        super().__init__()
        self.gate_proj = linear(width, inner_width)
        self.up_proj = linear(width, inner_width)
        self.down_proj = linear(inner_width, width)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Moe(nn.Module):
    """Routed experts plus one shared expert; the bias only steers the choice."""

    def __init__(self, config):
        super().__init__()
        width, inner = config["hidden_size"], config["moe_intermediate_size"]
        self.experts, self.chosen = config["n_routed_experts"], config["num_experts_per_tok"]
        self.groups, self.open_groups = config["n_group"], config["topk_group"]
        self.scaling = config["routed_scaling_factor"]
        self.gate = linear(width, self.experts)
        self.gate_up_e2fd = nn.Parameter(torch.empty(self.experts, 2, inner, width))
        self.down_edf = nn.Parameter(torch.empty(self.experts, width, inner))
        self.shared_experts = Mlp(width, inner * config["n_shared_experts"])
        self.register_buffer("bias_e", torch.zeros(self.experts))
        self.register_buffer("load_e", torch.zeros(self.experts))

    def forward(self, x_btd):
        x_nd = x_btd.flatten(0, 1)
        expert_nk, weight_nk = self.route(x_nd)
        y_nd = self.run_experts(x_nd, expert_nk, weight_nk) + self.shared_experts(x_nd)
        return y_nd.view_as(x_btd)

    def route(self, x_nd):
        score_ne = torch.sigmoid(self.gate(x_nd))
        expert_nk = self.choose(score_ne.detach())
        if self.training:
            self.load_e += expert_nk.flatten().bincount(minlength=self.experts)
        weight_nk = score_ne.gather(1, expert_nk)
        weight_nk = weight_nk / (weight_nk.sum(1, keepdim=True) + 1e-20)
        return expert_nk, weight_nk * self.scaling

    def choose(self, score_ne):
        choice_nge = (score_ne + self.bias_e).unflatten(1, (self.groups, -1))
        group_score_ng = choice_nge.topk(2, dim=-1).values.sum(-1)
        open_ng = torch.zeros_like(group_score_ng, dtype=torch.bool)
        open_ng.scatter_(1, group_score_ng.topk(self.open_groups, dim=1).indices, True)
        choice_nge = choice_nge.masked_fill(~open_ng.unsqueeze(-1), float("-inf"))
        return choice_nge.flatten(1).topk(self.chosen, dim=1).indices

    def run_experts(self, x_nd, expert_nk, weight_nk):
        order_s = expert_nk.flatten().argsort(stable=True)
        token_s = order_s // self.chosen
        sizes = expert_nk.flatten().bincount(minlength=self.experts).tolist()
        chunks = x_nd.index_select(0, token_s).split(sizes)
        weights = zip(chunks, self.gate_up_e2fd.unbind(0), self.down_edf.unbind(0))
        y_sd = torch.cat([run_expert(*parts) for parts in weights])
        y_sd = y_sd * weight_nk.flatten()[order_s].unsqueeze(1)
        return torch.zeros_like(x_nd).index_add(0, token_s, y_sd)

    @torch.no_grad()
    def steer_bias(self, speed):
        """Raise the bias of experts used too little, lower it where too much."""
        share_e = self.load_e / self.load_e.sum()
        self.bias_e += speed * torch.sign(share_e.mean() - share_e)
        self.load_e.zero_()
        return share_e


def run_expert(x_cd, gate_up_2fd, down_df):
    gate_cf, up_cf = F.linear(x_cd, gate_up_2fd.flatten(0, 1)).chunk(2, dim=1)
    return F.linear(F.silu(gate_cf) * up_cf, down_df)


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, eps=1e-6)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def initialize(module):
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.5 * module.in_features ** -0.5)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, Moe):
        for weight in (module.gate_up_e2fd, module.down_edf):
            nn.init.normal_(weight, std=0.5 * weight.shape[-1] ** -0.5)


def scale_residual_outputs(model):
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_edf")):
                weight *= (2 * len(model.layers)) ** -0.5


def rotary_tables(config, length):
    dim = config["qk_rope_head_dim"]
    frequency = config["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
    angle_tp = torch.outer(torch.arange(length), frequency)
    return angle_tp.cos(), angle_tp.sin()


def rotate(x, rotation):
    """Rotate the pairs (2i, 2i+1). The result lists all firsts, then all
    seconds; queries and keys agree on that order, so their products do not
    depend on it."""
    cos_tp, sin_tp = rotation
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.cat([first * cos_tp - second * sin_tp,
                      second * cos_tp + first * sin_tp], dim=-1)


def checkpoint_tensors(model):
    """All weights under the names of the published checkpoint format."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        name = "model." + name
        if name.endswith("load_e"):
            continue
        if name.endswith("bias_e"):
            tensors[name.replace("bias_e", "gate.e_score_correction_bias")] = tensor.float()
        elif name.endswith("gate_up_e2fd"):
            for e, (gate_fd, up_fd) in enumerate(tensor):
                prefix = name.replace("gate_up_e2fd", f"experts.{e}")
                tensors[prefix + ".gate_proj.weight"] = gate_fd.bfloat16()
                tensors[prefix + ".up_proj.weight"] = up_fd.bfloat16()
        elif name.endswith("down_edf"):
            for e, down_df in enumerate(tensor):
                prefix = name.replace("down_edf", f"experts.{e}")
                tensors[prefix + ".down_proj.weight"] = down_df.bfloat16()
        else:
            tensors[name] = tensor.bfloat16()
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def load_checkpoint_tensors(model, tensors):
    """The inverse of checkpoint_tensors, into float32."""
    state = model.state_dict()
    for name, tensor in state.items():
        published = "model." + name
        if name.endswith("bias_e"):
            tensor.copy_(tensors[published.replace("bias_e", "gate.e_score_correction_bias")])
        elif name.endswith("gate_up_e2fd"):
            prefix = published.replace("gate_up_e2fd", "experts")
            for e, gate_up_2fd in enumerate(tensor):
                gate_up_2fd[0].copy_(tensors[f"{prefix}.{e}.gate_proj.weight"])
                gate_up_2fd[1].copy_(tensors[f"{prefix}.{e}.up_proj.weight"])
        elif name.endswith("down_edf"):
            prefix = published.replace("down_edf", "experts")
            for e, down_df in enumerate(tensor):
                down_df.copy_(tensors[f"{prefix}.{e}.down_proj.weight"])
        elif not name.endswith("load_e"):
            tensor.copy_(tensors[published])
