"""Files of MATLAB, ISMRMRD and BART, and the text of Params.txt: read and written."""
