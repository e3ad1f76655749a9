"""The flags of llama.cpp's and ik_llama.cpp's programs that no command here has, in three classes.

A line has the names of one flag, and of the values that it takes; [NAME] may be left out. Behind the = of a taken one
stands our flag: alone it takes the value that follows, with a value of its own it is given where the other one is
switched on.
"""

from collections.abc import Mapping
from typing import Final

TAKEN: Final = """
    --usage = --help
    --temperature N = --temp
    -okv KEY=TYPE:VALUE = --override-kv
    -spf FILE = -sysf
    --ot REGEX=BUFT = -ot
    --mla-attn N = -mla
    --attn-max-batch N = -amb
    --no-fused-mul-multiadd = -no-mmad
    --repack = -rtr
    -nr --no-repack = -rtr 0
    -kvo --kv-offload = -nkvo 0
    -nopo --no-op-offload = -op -1,0
    -if --interactive-first = -i
    -ctx-ckpt --swa-checkpoints N = -ctxcp
    --checkpoint-every-n-tokens N = -cpent
    -ctx-ckpt-i --ctx-checkpoints-interval N = -cpent
"""

# Results are the same without them.
UNUSED: Final[Mapping[str, str]] = {
    "of a server": """
        --reuse-port
        --path DIR
        --api-prefix PREFIX
        --server-base URL
        --ssl-key-file FILE
        --ssl-cert-file FILE
        --cors-methods METHODS
        --cors-headers HEADERS
        --cors-credentials
        --no-cors-credentials
        --threads-http N
        --sleep-idle-seconds N
        --tags TAGS
        -ns --sequences N
        -cb --cont-batching
        -nocb --no-cont-batching
        --props
        --cache-idle-slots
        --no-cache-idle-slots
        -kvu --kv-unified
        -no-kvu --no-kv-unified
        --kv-unified-per-slot N
        --webui [NAME]
        --ui-config --webui-config JSON
        --ui-config-file --webui-config-file FILE
        --ui-mcp-proxy --webui-mcp-proxy
        --no-ui-mcp-proxy --no-webui-mcp-proxy
        --tools TOOLS
        --tools-runtime NAME
        --mcp-servers-config FILE
        --mcp-servers-json JSON
        -ag --agent
        -no-ag --no-agent
        --media-path DIR
        -embd --embedding --embeddings
        --models-dir DIR
        --models-preset FILE
        --models-max N
        --models-autoload
        --no-models-autoload
        --send-done
        --sql-save-file FILE
        --sqlite-zstd-ext-file FILE
        --log-prompts-dir DIR
        --reasoning-format FORMAT
        --reasoning-tokens FORMAT
        --reasoning-preserve
        --no-reasoning-preserve
        -ptcall --parallel-tool-calls
        --prefill-assistant
        --no-prefill-assistant
        --skip-chat-parsing
        --no-skip-chat-parsing
        --peg
        --jinja
        --no-jinja
    """,
    "what is kept between prompts": """
        --cache-prompt
        --no-cache-prompt
        --cache-reuse N
        -crs --cache-ram-similarity N
        -cram-n-min --cache-ram-n-min N
        -ctx-ckpt-t --ctx-checkpoints-tolerance N
        -ctx-ckpt-e --ctx-checkpoints-eviction NAME
        -cms --checkpoint-min-step N
        --prompt-cache FILE
        --prompt-cache-all
        --prompt-cache-ro
        -dt --defrag-thold N
        --keep N
        --context-shift [MODE]
        --no-context-shift
        -dkvc --dump-kv-cache
    """,
    "how the machine is used": """
        --numa MODE
        --prio N
        --prio-batch N
        --poll N
        --poll-batch N
        -tb --threads-batch N
        -tm --threads-mtmd N
        -Cb --cpu-mask-batch MASK
        -Crb --cpu-range-batch LO-HI
        --cpu-strict-batch N
        --mlock
        -lm --load-mode MODE
        -lzm --lazy-mode MODE
        -dio --direct-io
        -ndio --no-direct-io
        -thp --transparent-huge-pages
        --no-host
        --defer-experts
        --prefetch-experts
        --prefetch-experts-threads N
        --moe-cache SIZE
        --moe-cache-mib N
        --check-tensors
        -vq --validate-quants
        -wgt --worst-graph-tokens N
        -mea --max-extra-alloc N
        -cuda --cuda-params TEXT
        --max-gpu N
        -no-ooae --no-offload-only-active-experts
        -ooae --offload-only-active-experts
        --op-offload
        -gr --graph-reuse
        -no-gr --no-graph-reuse
        -sas --scheduler-async
        -smgs --split-mode-graph-scheduling
        -smf16 --split-mode-f16
        -smf32 --split-mode-f32
        -grt --graph-reduce-type TYPE
        -gap --graph-attn-precision TYPE
        -muge --merge-up-gate-experts --merge-up-gate-exps
        -ger --grouped-expert-routing
        -rcache --rope-cache
        -no-rcache --no-rope-cache
        -fdn --fused-delta-net N
        -fidx --fused-indexer-topk
        -khad --k-cache-hadamard
        -vhad --v-cache-hadamard
        -mtprot --mtp-requantize-output-tensor TYPE
    """,
    "memory that others fill by themselves": """
        -fitc --fit-ctx N
        --fit-margin MIB
        -gfm --gpu-fit-margin PAIRS
        --print-overrides
    """,
    "speculation, which changes no text": """
        -md --model-draft --spec-draft-model FILE
        -hfd -hfrd --hf-repo-draft --spec-draft-hf NAME
        --draft --draft-n --draft-max --spec-draft-n-max N
        --draft-min --draft-n-min --spec-draft-n-min N
        --draft-p-min --spec-draft-p-min N
        -ps --p-split --draft-p-split --spec-draft-p-split N
        -draft --draft-params TEXT
        -cd --ctx-size-draft N
        -td --threads-draft --spec-draft-threads N
        -tbd --threads-batch-draft --spec-draft-threads-batch N
        -Cd --cpu-mask-draft --spec-draft-cpu-mask MASK
        -Crd --cpu-range-draft --spec-draft-cpu-range LO-HI
        --cpu-strict-draft --spec-draft-cpu-strict N
        --prio-draft --spec-draft-prio N
        --poll-draft --spec-draft-poll N
        -Cbd --cpu-mask-batch-draft --spec-draft-cpu-mask-batch MASK
        -Crbd --cpu-range-batch-draft --spec-draft-cpu-range-batch LO-HI
        --cpu-strict-batch-draft --spec-draft-cpu-strict-batch N
        --prio-batch-draft --spec-draft-prio-batch N
        --poll-batch-draft --spec-draft-poll-batch N
        -ngld --gpu-layers-draft --n-gpu-layers-draft --spec-draft-ngl N
        -devd --device-draft --spec-draft-device DEVICES
        -otd --override-tensor-draft --spec-draft-override-tensor RULES
        -cmoed --cpu-moe-draft --spec-draft-cpu-moe
        -ncmoed --n-cpu-moe-draft --spec-draft-n-cpu-moe --spec-draft-ncmoe N
        -ctkd --cache-type-k-draft --spec-draft-type-k TYPE
        -ctvd --cache-type-v-draft --spec-draft-type-v TYPE
        --spec-draft-backend-sampling
        --no-spec-draft-backend-sampling
        --spec-draft-sampling NAME
        --spec-synth-len N
        --spec-synth-rates RATES
        --spec-type TYPE
        --spec-stage TEXT
        --spec-replace TARGET DRAFT
        --spec-ckpt-mode --recurrent-ckpt-mode MODE
        --spec-autotune
        --spec-default
        --spec-use-checkpoints MODE
        --spec-ngram-size-n N
        --spec-ngram-size-m N
        --spec-ngram-min-hits N
        --spec-ngram-check-rate N
        --spec-ngram-mod-n-min N
        --spec-ngram-mod-n-max N
        --spec-ngram-mod-n-match N
        --spec-ngram-simple-size-n N
        --spec-ngram-simple-size-m N
        --spec-ngram-simple-min-hits N
        --spec-ngram-map-k-size-n N
        --spec-ngram-map-k-size-m N
        --spec-ngram-map-k-min-hits N
        --spec-ngram-map-k4v-size-n N
        --spec-ngram-map-k4v-size-m N
        --spec-ngram-map-k4v-min-hits N
        --suffix-pattern-len N
        --suffix-max-depth N
        --suffix-corpus FILE
        -lcs --lookup-cache-static FILE
        -lcd --lookup-cache-dynamic FILE
        -mtp --multi-token-prediction
        -no-mtp --no-multi-token-prediction
        -bs --backend-sampling
    """,
    "images, of which a text has none": """
        -mm --mmproj FILE
        -mmu --mmproj-url URL
        --mmproj-auto
        --no-mmproj --no-mmproj-auto
        --mmproj-offload
        --no-mmproj-offload
        -mmdev --mmproj-device DEVICE
        --mtmd-kq-type TYPE
        --mtmd-batch-max-tokens N
        --image-min-tokens N
        --image-max-tokens N
        --video-fps N
        --video-timestamp-interval N
        --video-ffmpeg-dir DIR
    """,
    "messages": """
        -co --color [MODE]
        --colors
        --simple-io
        -mli --multiline-input
        --minilog
        -lv --verbosity --log-verbosity N
        --log-verbose
        --log-disable
        --log-enable
        --log-new
        --log-append
        --log-test
        --log-file FILE
        --log-format FORMAT
        --log-colors [MODE]
        --log-prefix
        --no-log-prefix
        --log-timestamps
        --no-log-timestamps
        --log-jsonl
        --no-log-jsonl
        -ld --logdir DIR
        -ptc --print-token-count N
        --offline
        -hft --hf-token TOKEN
        --perf
        --no-penalize-nl
        --show-timings
        --no-show-timings
    """,
    "measurements": """
        -wb --warmup-batch
        --all-logits --perplexity
        --delay N
        --progress
        --no-progress-bar
        --n-gen-warmup N
        -oe --output-err FORMAT
        --sweep-memory
        --sweep-stride N
    """,
}

REFUSED: Final[Mapping[str, str]] = {
    "files are not downloaded, -m FILE": """
        -hf -hfr --hf-repo NAME
        -hff --hf-file FILE
        -hfv -hfrv --hf-repo-v NAME
        -hffv --hf-file-v FILE
        -mu --model-url URL
        -dr --docker-repo [NAME]
        -mv --model-vocoder FILE
        --embd-gemma-default
        --fim-qwen-1.5b-default
        --fim-qwen-3b-default
        --fim-qwen-7b-default
        --fim-qwen-7b-spec
        --fim-qwen-14b-spec
        --fim-qwen-30b-default
        --gpt-oss-20b-default
        --gpt-oss-120b-default
        --vision-gemma-4b-default
        --vision-gemma-12b-default
    """,
    "graphsched plan shows a model without loading it": """
        --dry-run
    """,
    "graphsched --help tells of it": """
        --license
        -cl --cache-list
        --completion-bash
    """,
    "devices are in this machine, none over a network": """
        -rpc --rpc SERVERS
    """,
    "threads are the same for prompts and tokens, -t N": """
        -tgb --threads-gen-batch PAIR
    """,
    "adapters are not applied": """
        --lora FILE
        --lora-scaled FILE SCALE
        --lora-init-without-apply
        --control-vector FILE
        --control-vector-scaled FILE SCALE
        --control-vector-layer-range FIRST LAST
    """,
    "the file says how positions are encoded, --override-kv changes it, as in llama.rope.freq_base=float:1e6": """
        --rope-scaling NAME
        --rope-scale N
        --rope-freq-base N
        --rope-freq-scale N
        --yarn-orig-ctx N
        --yarn-ext-factor N
        --yarn-attn-factor N
        --yarn-beta-slow N
        --yarn-beta-fast N
    """,
    "attention is computed in full": """
        -gan --grp-attn-n N
        -gaw --grp-attn-w N
        -dsa --dsa
        -dsatk --dsa-top-k N
        -ictk --indexer-cache-type-k TYPE
        --swa-compress
        --attention NAME
    """,
    "all layers cache the same types, -ctk TYPE and -ctv TYPE": """
        -ctk-first --cache-type-k-first PAIR
        -ctk-last --cache-type-k-last PAIR
        -ctv-first --cache-type-v-first PAIR
        -ctv-last --cache-type-v-last PAIR
    """,
    "dense layers go by -ot, as in -ot 'blk[.][0-3][.]ffn_(up|gate|down)[.]=CPU'": """
        -ncffn --n-cpu-ffn N
    """,
    "only text is read": """
        --image --audio --video FILE
    """,
    "text is made, no embeddings or ranks": """
        --embd-normalize N
        --embd-output-format NAME
        --embd-separator TEXT
        --rerank --reranking
    """,
    "this sampler is missing, --help lists those there are": """
        --tfs N
        --adaptive-target N
        --adaptive-decay N
        --adaptive-updt-w-cur
        --penalize-nl
        --cfg-negative-prompt TEXT
        --cfg-negative-prompt-file FILE
        --cfg-scale N
        --banned-string-file FILE
        --banned-n N
        --allowlist-unicode-rule RULE
        --allowlist-pieces TEXT
        --allowlist-keyword TEXT
        --allowlist-keyword-delay N
        --expiring-logit-bias-file FILE
    """,
    "the prompt is text, -f FILE": """
        -bf --binary-file FILE
        --context-file FILE
    """,
    "a chat is written by its template": """
        --in-prefix TEXT
        --in-suffix TEXT
        --in-prefix-bos
        --infill
        --spm-infill
    """,
    "a chat goes on until its input ends, -i": """
        -cml --chatml
        -ins --instruct
    """,
    "how a model thinks is up to its template, --reasoning-budget N and --chat-template-kwargs JSON": """
        -rea --reasoning
        --reasoning-effort LEVEL
        --reasoning-budget-message TEXT
    """,
    "only perplexity and divergence are measured": """
        --hellaswag
        --hellaswag-tasks N
        --winogrande
        --winogrande-tasks N
        --multiple-choice
        --multiple-choice-tasks N
        --ppl-stride N
        --ppl-output-type N
        --output-tensor-name NAME
        --save-frequency N
    """,
}
