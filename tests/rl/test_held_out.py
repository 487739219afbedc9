from hypothesis import given
from hypothesis import strategies as st

from rl.tasks.held_out import held_out_rows


@given(
    digests=st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=30),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_equal_prompts_are_held_out_together(digests, share, seed):
    inside = held_out_rows(digests, share, seed)
    apart = {digest for digest, one in zip(digests, inside, strict=True) if one}
    assert inside.tolist() == [digest in apart for digest in digests]
    assert len(apart) == max(1, round(share * len(set(digests))))
