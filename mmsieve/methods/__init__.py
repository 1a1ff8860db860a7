"""The methods: each an annotator, with its inputs, its outputs, its paper."""
