"""An old name of `jaxsel.integrations.embeddings`, which embeds prompt texts. It is kept until version 0.2."""

from jaxsel.integrations.embeddings import Embedder as Embedder
from jaxsel.integrations.embeddings import embed as embed
from jaxsel.integrations.embeddings import sentence_transformers as sentence_transformers
from jaxsel.integrations.embeddings import wordllama as wordllama
