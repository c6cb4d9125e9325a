"""The method: selection of pairs, penalty on them, history of them. Independent of any trainer."""
